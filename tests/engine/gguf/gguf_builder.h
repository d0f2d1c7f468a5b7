#pragma once
// Writes GGUF bytes for tests: well-formed by default, and malformed wherever a test says so.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "engine/gguf/gguf.h"

namespace ds4::test {

using Bytes = std::vector<std::byte>;

/// Little-endian numbers and length-prefixed strings, one behind the other.
class ByteWriter {
 public:
  template <typename T>
  ByteWriter& number(T value) {
    const auto at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
    return *this;
  }
  ByteWriter& raw(std::string_view text) {
    const auto* data = reinterpret_cast<const std::byte*>(text.data());
    bytes_.insert(bytes_.end(), data, data + text.size());
    return *this;
  }
  ByteWriter& raw(std::span<const std::byte> more) {
    bytes_.insert(bytes_.end(), more.begin(), more.end());
    return *this;
  }
  ByteWriter& string(std::string_view text) { return number<std::uint64_t>(text.size()).raw(text); }
  ByteWriter& type(MetaType type) { return number(static_cast<std::uint32_t>(type)); }
  ByteWriter& pad_to(std::size_t alignment) {
    while (bytes_.size() % alignment != 0) bytes_.push_back(std::byte{0});
    return *this;
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  Bytes bytes_;
};

/// The MetaType that a C++ type is written as.
template <typename T>
constexpr MetaType meta_type_of() {
  if constexpr (std::is_same_v<T, std::uint8_t>) return MetaType::kU8;
  if constexpr (std::is_same_v<T, std::int8_t>) return MetaType::kI8;
  if constexpr (std::is_same_v<T, std::uint16_t>) return MetaType::kU16;
  if constexpr (std::is_same_v<T, std::int16_t>) return MetaType::kI16;
  if constexpr (std::is_same_v<T, std::uint32_t>) return MetaType::kU32;
  if constexpr (std::is_same_v<T, std::int32_t>) return MetaType::kI32;
  if constexpr (std::is_same_v<T, std::uint64_t>) return MetaType::kU64;
  if constexpr (std::is_same_v<T, std::int64_t>) return MetaType::kI64;
  if constexpr (std::is_same_v<T, float>) return MetaType::kF32;
  if constexpr (std::is_same_v<T, double>) return MetaType::kF64;
  if constexpr (std::is_same_v<T, bool>) return MetaType::kBool;
}

/// Collects metadata and tensors, then lays them out. Tensor data is packed in the order of the
/// calls, each tensor aligned; what is not given is zeros.
class GgufBuilder {
 public:
  template <typename T>
  requires std::is_arithmetic_v<T> GgufBuilder& meta(std::string_view key, T value) {
    pairs_.string(key).type(meta_type_of<T>()).number(value);
    ++pair_count_;
    return *this;
  }
  GgufBuilder& meta(std::string_view key, std::string_view value) {
    pairs_.string(key).type(MetaType::kString).string(value);
    ++pair_count_;
    return *this;
  }
  template <typename T>
  GgufBuilder& meta_array(std::string_view key, std::span<const T> values) {
    begin_array(key, meta_type_of<T>(), values.size());
    for (const T& value : values) pairs_.number(value);
    return *this;
  }
  template <typename T>
  GgufBuilder& meta_array(std::string_view key, std::initializer_list<T> values) {
    return meta_array<T>(key, std::span<const T>(values.begin(), values.size()));
  }
  GgufBuilder& meta_array(std::string_view key, std::span<const std::string> values) {
    begin_array(key, MetaType::kString, values.size());
    for (const std::string& value : values) pairs_.string(value);
    return *this;
  }
  GgufBuilder& meta_array(std::string_view key, std::initializer_list<std::string> values) {
    return meta_array(key, std::span<const std::string>(values.begin(), values.size()));
  }
  /// Any bytes in the place of a metadata pair.
  GgufBuilder& raw_pair(const ByteWriter& pair) {
    pairs_.raw(pair.bytes());
    ++pair_count_;
    return *this;
  }

  /// A tensor behind the ones before it. `data` may be shorter than the tensor: the rest is zeros.
  GgufBuilder& tensor(std::string_view name, TensorType type, std::vector<std::uint64_t> dims,
                      std::span<const std::byte> data = {}) {
    const auto traits = traits_of(type).value_or(TypeTraits{"?", 1, 1});
    std::uint64_t values = 1;
    for (const auto dim : dims) values *= dim;
    const std::uint64_t bytes = values / traits.block_values * traits.block_bytes;
    tensor_at(name, type, dims, data_.bytes().size());
    data_.raw(data).raw(Bytes(bytes - data.size())).pad_to(alignment_);
    return *this;
  }
  /// A row of the tensor table alone, with any offset and no data.
  GgufBuilder& tensor_at(std::string_view name, TensorType type, std::vector<std::uint64_t> dims,
                         std::uint64_t offset) {
    table_.string(name).number(static_cast<std::uint32_t>(dims.size()));
    for (const auto dim : dims) table_.number(dim);
    table_.number(static_cast<std::uint32_t>(type)).number(offset);
    ++tensor_count_;
    return *this;
  }

  GgufBuilder& version(std::uint32_t version) { return version_ = version, *this; }
  GgufBuilder& magic(std::string_view magic) { return magic_ = magic, *this; }
  /// Of the layout; the key `general.alignment` is the caller's to write. Before any tensor.
  GgufBuilder& alignment(std::uint32_t alignment) { return alignment_ = alignment, *this; }
  /// Counts in the place of the true ones.
  GgufBuilder& claim_pairs(std::uint64_t count) { return claimed_pairs_ = count, *this; }
  GgufBuilder& claim_tensors(std::uint64_t count) { return claimed_tensors_ = count, *this; }

  /// Everything before the tensor data, without the padding behind it.
  Bytes header() const {
    ByteWriter out;
    out.raw(magic_).number(version_);
    out.number(claimed_tensors_.value_or(tensor_count_))
        .number(claimed_pairs_.value_or(pair_count_));
    return out.raw(pairs_.bytes()).raw(table_.bytes()).bytes();
  }
  /// The whole file.
  Bytes build() const {
    ByteWriter out;
    return out.raw(header()).pad_to(alignment_).raw(data_.bytes()).bytes();
  }

 private:
  void begin_array(std::string_view key, MetaType element, std::uint64_t count) {
    pairs_.string(key).type(MetaType::kArray).type(element).number(count);
    ++pair_count_;
  }

  std::string magic_ = "GGUF";
  std::uint32_t version_ = 3;
  std::uint32_t alignment_ = 32;
  std::uint64_t pair_count_ = 0;
  std::uint64_t tensor_count_ = 0;
  std::optional<std::uint64_t> claimed_pairs_;
  std::optional<std::uint64_t> claimed_tensors_;
  ByteWriter pairs_;
  ByteWriter table_;
  ByteWriter data_;
};

}  // namespace ds4::test
