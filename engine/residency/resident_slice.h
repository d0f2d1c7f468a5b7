#pragma once
// A slice's weights in memory: the model file's own bytes, of the cover and of nothing else, mapped
// and made resident once. Everything that computes reaches weights through tensor(), so a layer that
// the slice does not own cannot be touched by mistake: asking for it is an error that names both, and
// its address is not mapped.
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "engine/base/result.h"
#include "engine/gguf/gguf.h"
#include "engine/residency/layer_range.h"
#include "engine/residency/span_cover.h"

namespace ds4 {

class ModelFile;  // gguf/model_file.h: an open file, its parsed header and its fingerprint

/// One tensor's place in memory. Valid as long as its ResidentSlice.
struct TensorView {
  const TensorInfo* info = nullptr;
  std::span<const std::byte> bytes;
};

struct LoadOptions {
  /// Called from the loading thread after each chunk.
  std::function<void(std::uint64_t bytes_done, std::uint64_t bytes_total)> progress;
  /// Looked at between chunks; the load ends with kCancelled and leaves nothing behind.
  const std::atomic<bool>* cancel = nullptr;
  bool lock = true;  // mlock where the limit allows
  std::uint64_t chunk_bytes = 8u << 20;
};

/// What the kernel says of the mapping (mincore(2), /proc/self/smaps), not what we believe.
struct Residency {
  std::uint64_t mapped_bytes = 0;
  std::uint64_t incore_bytes = 0;
  std::uint64_t locked_bytes = 0;
  std::uint64_t outside_cover_bytes = 0;  // mapped from this file but not in the cover: always 0
};

class ResidentSlice {
 public:
  /// Maps the cover of `range` into a reservation of the file's size, reads it in and locks it.
  static Result<std::shared_ptr<ResidentSlice>> load(std::shared_ptr<const ModelFile> model,
                                                     const LayerRange& range,
                                                     const LoadOptions& options = {});
  ~ResidentSlice();

  /// Errors: kNotFound if the file has no such tensor, kOutOfRange (naming tensor and range) if it
  /// belongs to other layers.
  Result<TensorView> tensor(std::string_view name) const;

  const ModelFile& model() const;
  const LayerRange& range() const;
  const SpanCover& cover() const;
  /// Empty if everything was locked; else one sentence that says what was not and why.
  const std::string& lock_note() const;
  Result<Residency> audit() const;
  /// The kernel's peak of resident memory of this process while it loaded (VmHWM).
  std::uint64_t load_peak_bytes() const;
  /// The reserved address of file offset 0; for tests that prove that foreign offsets fault.
  const std::byte* reservation() const;

 private:
  ResidentSlice();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4
