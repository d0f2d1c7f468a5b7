#include "agent/wire/byte_cursor.h"

#include <fmt/format.h>

namespace ds4::wire {

std::string ByteReader::path(std::string_view field) const {
  if (!element_) return std::string(field);
  return fmt::format("{}[{}].{}", element_->array, element_->index, field);
}

void ByteReader::reject(std::string_view field, std::string_view expected) {
  if (error_) return;
  error_ = Error{ErrorCode::kCorrupt, fmt::format("{}: {} {}", frame_, path(field), expected)};
}

std::span<const std::byte> ByteReader::take(std::string_view field, std::size_t count) {
  if (error_) return {};
  if (count > remaining()) {
    reject(field, fmt::format("needs {} bytes, {} are left", count, remaining()));
    return {};
  }
  const auto taken = bytes_.subspan(at_, count);
  at_ += count;
  return taken;
}

std::uint32_t ByteReader::count(std::string_view field, std::uint32_t least, std::uint32_t most,
                                std::size_t element_bytes) {
  const std::uint32_t value = u32(field);
  if (failed()) return 0;
  if (value < least || value > most) {
    reject(field, fmt::format("is {}, must be within {} and {}", value, least, most));
    return 0;
  }
  // 32 bits times the few dozen bytes of an element cannot overflow 64.
  if (std::uint64_t{value} * element_bytes > remaining()) {
    reject(field, fmt::format("is {}, more than the {} bytes left can hold", value, remaining()));
    return 0;
  }
  return value;
}

void ByteReader::zero_u32(std::string_view field) {
  if (const std::uint32_t value = u32(field); value != 0) {
    reject(field, fmt::format("is {}, must be 0", value));
  }
}

void ByteReader::set_element(std::string_view array, std::size_t index) {
  element_ = Element{array, index};
}

Result<void> ByteReader::finish() {
  if (!error_ && remaining() > 0) {
    error_ =
        Error{ErrorCode::kCorrupt, fmt::format("{}: {} bytes follow its end", frame_, remaining())};
  }
  if (error_) return tl::unexpected<Error>(std::move(*error_));
  return {};
}

}  // namespace ds4::wire
