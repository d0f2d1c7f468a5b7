#pragma once
// Where words end: the `joyai-llm` pre-tokeniser that DeepSeek V4's files name.
//
// The vocabulary was learnt on text already cut into pieces, so merges must never cross a cut. The
// cuts are defined by three regular expressions applied one after the other, each to the pieces
// that the ones before left (what a pattern does not match is a piece too):
//   1. \p{N}{1,3}
//   2. [一-龥぀-ゟ゠-ヿ]+
//   3. P[A-Za-z]+ | [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+ | ' '?[\p{P}\p{S}]+[\r\n]*
//      | \s*[\r\n]+ | \s+(?!\S) | \s+                      (P: one ASCII punctuation mark)
// A regex engine would backtrack over a megabyte of spaces; the hand-written scanner reads each
// character a bounded number of times. An invalid byte is a piece of its own.
#include <cstddef>
#include <string_view>
#include <vector>

namespace ds4 {

/// The name under `tokenizer.ggml.pre` that split_words implements.
inline constexpr std::string_view kPretokenizerName = "joyai-llm";

/// Cuts `text` into pieces: their lengths in bytes, each at least 1, summing to text.size().
std::vector<std::size_t> split_words(std::string_view text);

}  // namespace ds4
