#include "engine/text/byte_map.h"

#include <array>
#include <cstdint>

#include "engine/text/utf8.h"

namespace ds4 {
namespace {

// Bytes that are visible characters of Latin-1 stand for themselves; the other 68 take, in order,
// the characters from U+0100 on.
constexpr bool is_visible(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::size_t kMappedEnd = 0x100 + 68;

struct Maps {
  std::array<char32_t, 256> to_char{};
  std::array<std::int16_t, kMappedEnd> to_byte{};  // -1: outside the map
};

constexpr Maps make_maps() {
  Maps maps;
  maps.to_byte.fill(-1);
  char32_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char32_t c = is_visible(byte) ? byte : next++;
    maps.to_char[byte] = c;
    maps.to_byte[c] = static_cast<std::int16_t>(byte);
  }
  return maps;
}

constexpr Maps kMaps = make_maps();

}  // namespace

char32_t byte_to_char(unsigned char byte) {
  return kMaps.to_char[byte];
}

std::optional<std::string> bytes_of_mapped(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  while (!text.empty()) {
    const Utf8Char c = next_utf8(text);
    if (c.status != Utf8Status::kValid || c.code_point >= kMappedEnd) return std::nullopt;
    const std::int16_t byte = kMaps.to_byte[c.code_point];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    text.remove_prefix(c.bytes);
  }
  return bytes;
}

}  // namespace ds4
