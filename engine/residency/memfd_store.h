#pragma once
// Weights in memory that outlives the process.
//
// The cover is copied once into memfds and mapped from there; their descriptors are given to a
// DescriptorKeeper (the agent's is systemd's descriptor store), so that the next process, after an
// upgrade or a kill -9, maps what is still there instead of reading it again.
//
// There is one memfd for each layer and one for the output head, a sparse image of the model file:
// the same bytes at the same offsets, and nothing else. So moving layers adds and drops whole
// memfds, a restart under another assignment finds what it shares with the former one, and pages
// are mapped at the same addresses as the file's own would be. A page on the border of two layers
// is in both.
//
// A part that was cut short must never be taken for a whole one. Its mark (fingerprint, part,
// cover, which file it was copied from, a hash over both ends of every tensor) is written behind
// the image after the last byte, then the memfd is sealed against every change, and only when the
// whole load has succeeded is it given away. Taking a part back checks all of that;
// weight_equality.h says what it proves.
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/unique_fd.h"
#include "engine/residency/byte_source.h"
#include "engine/residency/page_store.h"

namespace ds4 {

/// Holds descriptors for the next process. Thread rule: the loading thread, and whoever ends a
/// claim: any.
class DescriptorKeeper {
 public:
  virtual ~DescriptorKeeper() = default;
  /// From now on the next process gets `fd` (a copy of it) under this name.
  virtual void keep(const std::string& name, int fd) = 0;
  virtual void forget(const std::string& name) = 0;
  /// What a former process left, once; empty if nothing of that name.
  virtual UniqueFd take(const std::string& name) = 0;
};

struct MemfdOptions {
  bool huge_pages = false;             // 2 MiB, where the kernel has them to give
  DescriptorKeeper* keeper = nullptr;  // null: nothing outlives the process
};

/// `source`: where the model's bytes are copied from.
std::unique_ptr<PageStore> make_memfd_store(std::shared_ptr<const ModelFile> model,
                                            std::unique_ptr<ByteSource> source,
                                            const MemfdOptions& options);

/// "ds4.<fingerprint>.L20", "ds4.<fingerprint>.output": what a part is kept under.
std::string memfd_part_name(std::string_view fingerprint, std::string_view part);

}  // namespace ds4
