#pragma once
// The tokens of a model file: what bytes each stands for, of which kind it is, and back.
#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/base/result.h"
#include "engine/gguf/gguf.h"
#include "engine/text/token.h"

namespace ds4 {

/// The values of `tokenizer.ggml.token_type`.
enum class TokenType : std::uint8_t {
  kNormal = 1,  // bytes, written with the byte map; the only kind that merges make
  kUnknown = 2,
  kControl = 3,      // steers the model; its text is not part of what is said
  kUserDefined = 4,  // like control when encoding, like text when decoding
  kUnused = 5,       // padding up to the embedding's row count
};

/// Immutable after load(); any thread may read.
class Vocabulary {
 public:
  /// Checks every token. Errors (kCorrupt, kNotFound, kUnsupported) name the key and the token.
  static Result<Vocabulary> load(const GgufFile& file);

  std::uint32_t size() const { return static_cast<std::uint32_t>(entries_.size()); }
  bool contains(Token token) const {
    return token >= 0 && static_cast<std::size_t>(token) < entries_.size();
  }
  /// The bytes that `token` stands for (for kinds other than normal: its text as written). Not
  /// empty.
  std::string_view bytes(Token token) const;
  TokenType type(Token token) const { return entries_[static_cast<std::size_t>(token)].type; }
  /// The token that stands for exactly these bytes; -1 if none. Unused tokens are not found.
  Token find(std::string_view bytes) const;
  /// The token of one byte; every vocabulary has all 256.
  Token byte_token(unsigned char byte) const { return byte_tokens_[byte]; }

 private:
  struct Entry {
    std::uint64_t begin;  // in storage_
    std::uint32_t bytes;
    TokenType type;
  };

  Vocabulary() = default;
  Result<void> read_tokens(const GgufFile& file);
  Result<void> index_tokens();

  std::vector<char> storage_;  // all bytes, back to back; a vector, so that views survive a move
  std::vector<Entry> entries_;
  std::unordered_map<std::string_view, Token> by_bytes_;  // views into storage_
  std::array<Token, 256> byte_tokens_{};
};

}  // namespace ds4
