#include "engine/text/utf8.h"

#include <cassert>

namespace ds4 {
namespace {

// What a first byte promises: how many bytes, and which second bytes are allowed (later ones are
// always 80..BF). The narrowed ranges exclude overlong forms, surrogates and values above U+10FFFF.
struct Lead {
  unsigned bytes;  // 0: no character starts so
  unsigned char second_min;
  unsigned char second_max;
};

Lead classify(unsigned char first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xC2) return {0, 0, 0};
  if (first < 0xE0) return {2, 0x80, 0xBF};
  if (first == 0xE0) return {3, 0xA0, 0xBF};
  if (first == 0xED) return {3, 0x80, 0x9F};
  if (first < 0xF0) return {3, 0x80, 0xBF};
  if (first == 0xF0) return {4, 0x90, 0xBF};
  if (first < 0xF4) return {4, 0x80, 0xBF};
  if (first == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Char next_utf8(std::string_view text) {
  assert(!text.empty());
  const auto first = static_cast<unsigned char>(text[0]);
  const Lead lead = classify(first);
  if (lead.bytes == 0) return {Utf8Status::kInvalid, 0, 1};
  if (lead.bytes == 1) return {Utf8Status::kValid, first, 1};

  char32_t code_point = first & (0x7Fu >> lead.bytes);
  for (std::size_t i = 1; i < lead.bytes; ++i) {
    if (i == text.size()) return {Utf8Status::kIncomplete, 0, i};
    const auto byte = static_cast<unsigned char>(text[i]);
    const unsigned char min = i == 1 ? lead.second_min : 0x80;
    const unsigned char max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {Utf8Status::kInvalid, 0, i};
    code_point = code_point << 6 | (byte & 0x3Fu);
  }
  return {Utf8Status::kValid, code_point, lead.bytes};
}

}  // namespace ds4
