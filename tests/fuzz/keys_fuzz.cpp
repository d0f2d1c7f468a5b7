// Any text is a key, a key file, a card or a trust list, or an error; and what is taken for one
// says the same again when it is written.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "agent/keys/key_files.h"

using namespace ds4::keys;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto key = parse_public_key(text)) require(to_text(*key) == text);
  for (const KeyRole role : {KeyRole::kNode, KeyRole::kOperator}) {
    if (const auto pair = parse_secret_text(text, role)) {
      const auto again = parse_secret_text(secret_text(*pair), role);
      require(again && again->public_key == pair->public_key);
    }
  }
  if (const auto card = parse_card(text)) require(encode_card(*card) == text);
  if (const auto list = parse_trust(text)) {
    const auto again = parse_trust(encode_trust(*list));
    require(again && *again == *list);
    for (const TrustEntry& entry : list->entries()) {
      require(list->is_trusted(entry.key.bytes) != list->is_revoked(entry.key.bytes));
      require(!list->is_trusted(entry.key.bytes) || entry.key.role == KeyRole::kOperator);
    }
  }
  return 0;
}
