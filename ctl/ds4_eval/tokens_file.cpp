#include "ctl/ds4_eval/tokens_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "ctl/common/read_file.h"

namespace ds4::eval {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";

tl::unexpected<Error> no_token(const std::string& path, std::size_t index, std::string_view word) {
  return fail(
      ErrorCode::kCorrupt,
      fmt::format("{}: token {} is {}, not an id; the file holds a JSON array of ids, or ids "
                  "between blanks",
                  path, index, word));
}

Result<std::vector<std::int32_t>> parse_array(std::string_view text, const std::string& path) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return fail(ErrorCode::kCorrupt, fmt::format("{}: begins like a JSON array but is none", path));
  }
  std::vector<std::int32_t> tokens;
  for (const auto& element : json) {
    const bool fits = element.is_number_integer() &&
                      element.get<std::int64_t>() <= std::numeric_limits<std::int32_t>::max() &&
                      element.get<std::int64_t>() >= std::numeric_limits<std::int32_t>::min();
    if (!fits) return no_token(path, tokens.size(), element.dump().substr(0, 40));
    tokens.push_back(element.get<std::int32_t>());
  }
  return tokens;
}

Result<std::vector<std::int32_t>> parse_words(std::string_view text, const std::string& path) {
  std::vector<std::int32_t> tokens;
  for (std::size_t begin = text.find_first_not_of(kBlanks); begin != std::string_view::npos;
       begin = text.find_first_not_of(kBlanks, begin)) {
    const std::size_t end = std::min(text.find_first_of(kBlanks, begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    std::int32_t token = 0;
    const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), token);
    if (error != std::errc() || stop != word.data() + word.size()) {
      return no_token(path, tokens.size(), fmt::format("'{}'", word.substr(0, 40)));
    }
    tokens.push_back(token);
    begin = end;
  }
  return tokens;
}

}  // namespace

Result<std::vector<std::int32_t>> parse_tokens(std::string_view text, const std::string& path) {
  const std::size_t first = text.find_first_not_of(kBlanks);
  const bool is_array = first != std::string_view::npos && text[first] == '[';
  DS4_ASSIGN(std::vector<std::int32_t> tokens,
             is_array ? parse_array(text, path) : parse_words(text, path));
  if (tokens.empty()) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("{}: holds no tokens", path));
  }
  return tokens;
}

Result<std::vector<std::int32_t>> load_tokens(const std::string& path) {
  DS4_ASSIGN(const std::string text, ctl::read_file(path));
  return parse_tokens(text, path);
}

Result<void> check_tokens(const std::vector<std::int32_t>& tokens, std::uint32_t vocabulary,
                          std::uint32_t context, const std::string& path) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<std::uint32_t>(tokens[i]) >= vocabulary) {
      return fail(ErrorCode::kOutOfRange,
                  fmt::format("{}: token {} at position {} is outside the vocabulary (0 to {})",
                              path, tokens[i], i, vocabulary - 1));
    }
  }
  if (tokens.size() > context) {
    return fail(ErrorCode::kOutOfRange,
                fmt::format("{}: {} tokens are more than the model's context of {}", path,
                            tokens.size(), context));
  }
  return {};
}

}  // namespace ds4::eval
