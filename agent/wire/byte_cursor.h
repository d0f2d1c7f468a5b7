#pragma once
// Internal to agent/wire: little-endian fields, written and read in order. The reader keeps the
// first error and reads zeros from then on, so that a decoder lists its fields and looks once at
// the end; what it allocates it must bound by remaining().
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace ds4::wire {

static_assert(std::endian::native == std::endian::little, "fields are copied as they lie");

class ByteWriter {
 public:
  explicit ByteWriter(std::size_t expected_bytes) { out_.reserve(expected_bytes); }

  void u32(std::uint32_t value) { put(value); }
  void u64(std::uint64_t value) { put(value); }
  void i32(std::int32_t value) { put(value); }
  void f32(float value) { put(value); }
  void text(std::string_view value) { out_.append(value); }
  void tokens(std::span<const std::int32_t> values) {
    out_.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  }
  std::string take() { return std::move(out_); }

 private:
  template <typename T>
  void put(T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    out_.append(bytes, sizeof(T));
  }

  std::string out_;
};

class ByteReader {
 public:
  /// `frame` names what is read in errors ("work frame"). Both outlive this.
  ByteReader(std::span<const std::byte> bytes, std::string_view frame)
      : bytes_(bytes), frame_(frame) {}

  std::uint32_t u32(std::string_view field) { return get<std::uint32_t>(field); }
  std::uint64_t u64(std::string_view field) { return get<std::uint64_t>(field); }
  std::int32_t i32(std::string_view field) { return get<std::int32_t>(field); }
  float f32(std::string_view field) { return get<float>(field); }
  /// The next `count` bytes; empty after an error.
  std::span<const std::byte> take(std::string_view field, std::size_t count);

  /// A number of elements of at least `element_bytes` each, within `least` and `most` and within
  /// what is left to read. 0 after an error.
  std::uint32_t count(std::string_view field, std::uint32_t least, std::uint32_t most,
                      std::size_t element_bytes);
  /// A field that later versions may use: zero for now.
  void zero_u32(std::string_view field);

  /// Keeps the first error: "work frame: items[3].tokens must be ...".
  void reject(std::string_view field, std::string_view expected);
  bool failed() const { return error_.has_value(); }
  std::size_t remaining() const { return bytes_.size() - at_; }

  /// Fields are named "items[index].field" until the index is cleared.
  void set_element(std::string_view array, std::size_t index);
  void clear_element() { element_.reset(); }

  /// The first error, or one for bytes that nothing asked for.
  Result<void> finish();

 private:
  struct Element {
    std::string_view array;
    std::size_t index;
  };

  template <typename T>
  T get(std::string_view field) {
    T value{};
    const auto bytes = take(field, sizeof(T));
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  std::string path(std::string_view field) const;

  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
  std::string_view frame_;
  std::optional<Element> element_;
  std::optional<Error> error_;
};

}  // namespace ds4::wire
