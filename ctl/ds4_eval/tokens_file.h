#pragma once
// Files of token ids: a JSON array, or ids between blanks and line ends.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"

namespace ds4::eval {

/// Pure; `path` is for messages. Errors: kCorrupt naming the token that is none; kInvalidArgument
/// for a file without tokens.
Result<std::vector<std::int32_t>> parse_tokens(std::string_view text, const std::string& path);

/// Reads and parses. Errors also: kNotFound, kIo.
Result<std::vector<std::int32_t>> load_tokens(const std::string& path);

/// Errors: kOutOfRange naming the first id outside [0, vocabulary), or more tokens than `context`.
Result<void> check_tokens(const std::vector<std::int32_t>& tokens, std::uint32_t vocabulary,
                          std::uint32_t context, const std::string& path);

}  // namespace ds4::eval
