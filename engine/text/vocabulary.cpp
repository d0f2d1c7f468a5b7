#include "engine/text/vocabulary.h"

#include <fmt/format.h>

#include <optional>
#include <string>

#include "engine/text/byte_map.h"

namespace ds4 {
namespace {

constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kTypesKey = "tokenizer.ggml.token_type";
// Far above any vocabulary; keeps ids in 31 bits and sizes in 32.
constexpr std::size_t kMaxTokens = 1u << 24;
constexpr std::size_t kMaxTokenBytes = 1u << 16;

Result<TokenType> token_type(std::uint32_t value, std::size_t token) {
  if (value >= 1 && value <= 5) return static_cast<TokenType>(value);
  return fail(ErrorCode::kUnsupported,
              fmt::format("{}: token {} has type {}; a byte-level vocabulary has types 1 to 5",
                          kTypesKey, token, value));
}

}  // namespace

Result<Vocabulary> Vocabulary::load(const GgufFile& file) {
  Vocabulary vocabulary;
  DS4_TRY(vocabulary.read_tokens(file));
  DS4_TRY(vocabulary.index_tokens());
  return vocabulary;
}

Result<void> Vocabulary::read_tokens(const GgufFile& file) {
  DS4_ASSIGN(const auto texts, file.string_array(kTokensKey));
  DS4_ASSIGN(const auto types, file.u32_array(kTypesKey));
  if (texts.empty() || texts.size() > kMaxTokens) {
    return fail(ErrorCode::kCorrupt, fmt::format("{}: {} tokens; between 1 and {} are possible",
                                                 kTokensKey, texts.size(), kMaxTokens));
  }
  if (types.size() != texts.size()) {
    return fail(ErrorCode::kCorrupt,
                fmt::format("{} has {} entries for the {} tokens of {}", kTypesKey, types.size(),
                            texts.size(), kTokensKey));
  }
  entries_.reserve(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    DS4_ASSIGN(const TokenType type, token_type(types[i], i));
    if (texts[i].empty() || texts[i].size() > kMaxTokenBytes) {
      return fail(ErrorCode::kCorrupt,
                  fmt::format("{}: token {} has {} bytes; 1 to {} are possible", kTokensKey, i,
                              texts[i].size(), kMaxTokenBytes));
    }
    std::optional<std::string> bytes(texts[i]);
    if (type == TokenType::kNormal) bytes = bytes_of_mapped(texts[i]);
    if (!bytes) {
      return fail(
          ErrorCode::kCorrupt,
          fmt::format("{}: token {} has a character that stands for no byte", kTokensKey, i));
    }
    entries_.push_back({storage_.size(), static_cast<std::uint32_t>(bytes->size()), type});
    storage_.insert(storage_.end(), bytes->begin(), bytes->end());
  }
  return {};
}

Result<void> Vocabulary::index_tokens() {
  by_bytes_.reserve(entries_.size());
  for (Token token = 0; contains(token); ++token) {
    if (type(token) == TokenType::kUnused) continue;
    const auto [former, inserted] = by_bytes_.emplace(bytes(token), token);
    if (!inserted) {
      return fail(ErrorCode::kCorrupt, fmt::format("{}: tokens {} and {} are the same", kTokensKey,
                                                   former->second, token));
    }
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    const Token token = find({&c, 1});
    if (token < 0 || type(token) != TokenType::kNormal) {
      return fail(
          ErrorCode::kCorrupt,
          fmt::format("{}: no token for the byte 0x{:02x}; all 256 are needed to encode any "
                      "text",
                      kTokensKey, byte));
    }
    byte_tokens_[byte] = token;
  }
  return {};
}

std::string_view Vocabulary::bytes(Token token) const {
  const Entry& entry = entries_[static_cast<std::size_t>(token)];
  return {storage_.data() + entry.begin, entry.bytes};
}

Token Vocabulary::find(std::string_view bytes) const {
  const auto found = by_bytes_.find(bytes);
  return found == by_bytes_.end() ? -1 : found->second;
}

}  // namespace ds4
