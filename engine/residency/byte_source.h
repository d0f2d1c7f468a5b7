#pragma once
// Reading a model file to copy it, without leaving a trace in the page cache: what is copied is
// needed once, and the memory is wanted for the copy.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "engine/base/result.h"

namespace ds4 {

class ModelFile;

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Fills `out` from `offset`. `offset` and the address are page-aligned. Errors: kIo.
  virtual Result<void> read(std::uint64_t offset, std::span<std::byte> out) = 0;
};

/// With O_DIRECT where the file system takes it; else through the page cache, which is dropped
/// behind, and reading ahead of nothing that was not asked for.
Result<std::unique_ptr<ByteSource>> make_file_source(const ModelFile& model);

}  // namespace ds4
