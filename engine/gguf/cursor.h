#pragma once
// A reading position in a GGUF header. Knows two ends: that of the bytes at hand and that of the
// file, because running into the first only means "give me more", and into the second "the file
// lies".
#include <fmt/format.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "engine/base/checked.h"
#include "engine/base/result.h"

namespace ds4 {

static_assert(std::endian::native == std::endian::little, "GGUF fields are read in place");

/// Text out of a file, made safe for a log line: printable ASCII, at most 80 characters.
inline std::string quoted(std::string_view text) {
  std::string safe = "'";
  for (const char c : text.substr(0, 80)) safe += c >= ' ' && c <= '~' ? c : '?';
  return safe + (text.size() > 80 ? "...'" : "'");
}

class Cursor {
 public:
  /// `bytes` is the beginning of a file of `file_bytes`.
  Cursor(std::span<const std::byte> bytes, std::uint64_t file_bytes)
      : bytes_(bytes.first(std::min<std::uint64_t>(bytes.size(), file_bytes))),
        file_bytes_(file_bytes) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t left_in_file() const { return file_bytes_ - position_; }

  /// The next `count` bytes. `what` names them in errors: kCorrupt when they reach beyond the file,
  /// kOutOfRange ("truncated...") when only beyond the bytes at hand.
  Result<std::span<const std::byte>> take(std::uint64_t count, std::string_view what) {
    if (!fits(position_, count, bytes_.size())) return out_of_bytes(count, what);
    const auto taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }

  template <typename T>
  Result<T> number(std::string_view what) {
    DS4_ASSIGN(const auto raw, take(sizeof(T), what));
    T value;
    std::memcpy(&value, raw.data(), sizeof(T));
    return value;
  }

  /// A length in 64 bits, then as many bytes.
  Result<std::string_view> string(std::string_view what) {
    DS4_ASSIGN(const auto length, number<std::uint64_t>(what));
    DS4_ASSIGN(const auto raw, take(length, what));
    return std::string_view(reinterpret_cast<const char*>(raw.data()), raw.size());
  }

 private:
  tl::unexpected<Error> out_of_bytes(std::uint64_t count, std::string_view what) const {
    if (fits(position_, count, file_bytes_)) {
      return fail(ErrorCode::kOutOfRange,
                  fmt::format("truncated: {} at offset {} takes {} bytes, beyond the {} given",
                              what, position_, count, bytes_.size()));
    }
    return fail(ErrorCode::kCorrupt,
                fmt::format("{} at offset {} takes {} bytes, but the file ends after {}: it is "
                            "truncated or damaged; copy it again",
                            what, position_, count, file_bytes_));
  }

  std::span<const std::byte> bytes_;
  std::uint64_t file_bytes_ = 0;
  std::uint64_t position_ = 0;
};

}  // namespace ds4
