#include "engine/gguf/split_name.h"

#include <fmt/format.h>

#include <algorithm>

namespace ds4 {
namespace {

bool all_digits(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

Result<void> refuse_split_name(std::string_view path) {
  constexpr std::string_view kPattern = "-00001-of-00003.gguf";
  if (path.size() < kPattern.size()) return {};
  const std::string_view tail = path.substr(path.size() - kPattern.size());
  const std::string_view part = tail.substr(1, 5);
  const std::string_view parts = tail.substr(10, 5);
  const bool split = tail[0] == '-' && all_digits(part) && tail.substr(6, 4) == "-of-" &&
                     all_digits(parts) && tail.substr(15) == ".gguf";
  if (!split || parts == "00001") return {};
  return fail(
      ErrorCode::kUnsupported,
      fmt::format("part {} of {} of a split model: split files are not supported yet: merge "
                  "it first (llama-gguf-split --merge)",
                  part, parts));
}

}  // namespace ds4
