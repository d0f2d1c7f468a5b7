#pragma once
// Text to tokens and back: byte-level BPE as the model file's metadata describes it.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/gguf/gguf.h"

namespace ds4 {

using Token = std::int32_t;

class Tokenizer {
 public:
  /// Copies what it needs: `file` may go afterwards. Errors name the metadata key.
  static Result<Tokenizer> load(const GgufFile& file);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  std::uint32_t vocabulary() const;
  /// With `control`, texts of control tokens become those tokens before anything is split; without,
  /// they are text like any other (for user input that must not be able to forge a turn). Invalid
  /// UTF-8 is encoded byte by byte and decodes to the same bytes.
  std::vector<Token> encode(std::string_view text, bool control) const;
  /// The bytes of one token; control tokens yield their text only if `control`.
  std::string_view piece(Token token, bool control = false) const;
  std::string decode(std::span<const Token> tokens, bool control = false) const;
  /// The id of a token by its exact text; -1 if there is none.
  Token find(std::string_view text) const;
  Token bos() const;
  Token eos() const;
  bool is_control(Token token) const;

 private:
  Tokenizer();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Turns a stream of tokens into a stream of text that never ends inside a UTF-8 character.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  /// The text that has become complete with this token (may be empty).
  std::string push(Token token);
  /// What is left over at the end, invalid bytes replaced by U+FFFD.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
};

}  // namespace ds4
