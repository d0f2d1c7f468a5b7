#pragma once
// GPT-2's map between bytes and printable characters. A vocabulary file writes every token with it,
// so that a token can hold any bytes while its text stays valid, visible UTF-8: space is "Ġ"
// (U+0120).
#include <optional>
#include <string>
#include <string_view>

namespace ds4 {

/// The character that stands for `byte` (always below U+0144).
char32_t byte_to_char(unsigned char byte);

/// The bytes that `text` stands for; nothing if it holds a character outside the map or is not
/// UTF-8.
std::optional<std::string> bytes_of_mapped(std::string_view text);

}  // namespace ds4
