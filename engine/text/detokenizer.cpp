#include <string>
#include <string_view>
#include <utility>

#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

namespace ds4 {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

std::string Detokenizer::push(Token token) {
  pending_ += tokenizer_->piece(token);
  std::string complete;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Char c = next_utf8(rest);
    if (c.status == Utf8Status::kIncomplete) break;
    complete += c.status == Utf8Status::kValid ? rest.substr(0, c.bytes) : kReplacement;
    rest.remove_prefix(c.bytes);
  }
  pending_ = std::string(rest);
  return complete;
}

std::string Detokenizer::finish() {
  // What push leaves behind is at most the beginning of one character.
  const bool incomplete = !std::exchange(pending_, {}).empty();
  return incomplete ? std::string(kReplacement) : std::string();
}

}  // namespace ds4
