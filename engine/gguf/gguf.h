#pragma once
// GGUF: bytes -> typed metadata and a tensor table.
//
// The parser is pure: it sees a span of bytes (at least the file's header: everything before the
// tensor data) and the file's size, and returns views into that span. It never opens, maps or reads
// anything, which is why it can be fuzzed, and why a client can parse the same bytes out of a memfd.
// Opening a file and reading just its header is model_file.h's work. Everything in the bytes is
// hostile until checked: each count, length and offset goes through overflow-safe arithmetic.
//
// Format: versions 2 and 3, little-endian (ggml's docs/gguf.md).
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/base/result.h"
#include "engine/gguf/tensor_type.h"

namespace ds4 {

/// One row of the tensor table. `dims[0]` is the innermost dimension (the row length).
struct TensorInfo {
  std::string_view name;
  TensorType type = TensorType::kF32;
  std::uint32_t n_dims = 0;
  std::array<std::uint64_t, 4> dims = {1, 1, 1, 1};
  std::uint64_t offset = 0;  // from the start of the file
  std::uint64_t bytes = 0;
};

/// "Q8_0 {4096,1024}", for messages.
std::string shape_text(const TensorInfo& info);

enum class MetaType : std::uint32_t {
  kU8 = 0, kI8 = 1, kU16 = 2, kI16 = 3, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7,
  kString = 8, kArray = 9, kU64 = 10, kI64 = 11, kF64 = 12,
};

/// A metadata value, still in the file's bytes.
struct MetaValue {
  MetaType type = MetaType::kU8;
  MetaType element = MetaType::kU8;     // of an array
  std::uint64_t count = 1;              // elements of an array
  std::span<const std::byte> payload;   // the value's own bytes, without type and count
};

/// A parsed header. Views point into the bytes given to parse(), which must outlive it.
class GgufFile {
 public:
  /// `header` holds at least everything before the tensor data; `file_bytes` is the whole file's
  /// size, against which tensor ranges are checked. Errors: kCorrupt (with the key or tensor named),
  /// kUnsupported (version, byte order, tensor type, nested arrays, split files), kOutOfRange with a
  /// message that begins "truncated" when `header` ends before the tensor table does but the file
  /// goes on: call again with more of it. A file that itself ends too early is kCorrupt.
  static Result<GgufFile> parse(std::span<const std::byte> header, std::uint64_t file_bytes);

  std::uint32_t version() const { return version_; }
  std::uint64_t file_bytes() const { return file_bytes_; }
  /// Where the tensor data begins (aligned).
  std::uint64_t data_offset() const { return data_offset_; }
  /// Offset just behind the last metadata pair: [0, metadata_end) plus a zero tensor count is a
  /// GGUF file of metadata alone.
  std::uint64_t metadata_end() const { return metadata_end_; }
  /// Offset just behind the tensor table: the header is [0, table_end).
  std::uint64_t table_end() const { return table_end_; }

  std::span<const TensorInfo> tensors() const { return tensors_; }
  const TensorInfo* find(std::string_view name) const;

  bool has(std::string_view key) const { return metadata_.contains(key); }
  const MetaValue* meta(std::string_view key) const;

  /// Typed access. Any integer type that holds the value is accepted for u64/u32, and f64 for f32;
  /// kNotFound and kCorrupt errors name the key.
  Result<std::uint64_t> u64(std::string_view key) const;
  Result<std::uint32_t> u32(std::string_view key) const;
  Result<float> f32(std::string_view key) const;
  Result<bool> boolean(std::string_view key) const;
  Result<std::string_view> string(std::string_view key) const;
  Result<std::vector<std::uint32_t>> u32_array(std::string_view key) const;
  Result<std::vector<float>> f32_array(std::string_view key) const;
  Result<std::vector<std::string_view>> string_array(std::string_view key) const;

 private:
  std::uint32_t version_ = 0;
  std::uint64_t file_bytes_ = 0;
  std::uint64_t data_offset_ = 0;
  std::uint64_t metadata_end_ = 0;
  std::uint64_t table_end_ = 0;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string_view, std::size_t> tensor_index_;
  std::unordered_map<std::string_view, MetaValue> metadata_;
};

}  // namespace ds4
