#pragma once
// UTF-8, one character at a time, telling "wrong" from "not finished yet": a stream of tokens ends
// in the middle of characters all the time.
#include <cstddef>
#include <string_view>

namespace ds4 {

enum class Utf8Status {
  kValid,
  kInvalid,     // can never become a character
  kIncomplete,  // the text ends inside a character that is right so far
};

struct Utf8Char {
  Utf8Status status = Utf8Status::kValid;
  char32_t code_point = 0;  // only if valid
  // Bytes it takes. If not valid: the longest start that could have become a character, at least 1
  // (Unicode's "maximal subpart", which one U+FFFD replaces).
  std::size_t bytes = 1;
};

/// The first character of `text`, which is not empty. Overlong forms, surrogates and values above
/// U+10FFFF are invalid (Unicode 15, table 3-7).
Utf8Char next_utf8(std::string_view text);

}  // namespace ds4
