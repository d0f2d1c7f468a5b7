#pragma once
// Text to tokens and back: byte-level BPE as the model file's metadata describes it.
//
// Encoding is three steps, each its own header: control tokens are found first (control_trie.h),
// the text between them is cut into words (pretokenizer.h), and each word's bytes are merged by
// rank (bpe.h) into the tokens of the vocabulary (vocabulary.h). The hard part is that the text may
// come from anyone: it must cost about the same per byte whatever it is, come back byte for byte
// even where it is not UTF-8, and never turn into a control token unless the caller says that it
// may.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/gguf/gguf.h"
#include "engine/text/token.h"

namespace ds4 {

/// Immutable after load(); any thread may call.
class Tokenizer {
 public:
  /// Copies what it needs: `file` may go afterwards. Errors name the metadata key:
  /// kNotFound, kCorrupt, kUnsupported (another model or pre-tokeniser, which is named).
  static Result<Tokenizer> load(const GgufFile& file);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  std::uint32_t vocabulary() const;
  /// With `control`, texts of control and user-defined tokens become those tokens before anything
  /// is split (the longest of those that begin first); without, they are text like any other (for
  /// user input that must not be able to forge a turn). Invalid UTF-8 is encoded byte by byte and
  /// decodes to the same bytes. Adds no <bos>. Time is n log n in the longest word at worst.
  std::vector<Token> encode(std::string_view text, bool control) const;
  /// The bytes of one token; control tokens yield their text only if `control`. Empty for an id
  /// outside the vocabulary. The view lives as long as the tokenizer.
  std::string_view piece(Token token, bool control = false) const;
  std::string decode(std::span<const Token> tokens, bool control = false) const;
  /// The id of the token whose bytes (of a control token: text) are exactly `text`; -1 if none.
  Token find(std::string_view text) const;
  /// -1 if the file names none.
  Token bos() const;
  Token eos() const;
  /// Whether the file asks for <bos> before plain text (`tokenizer.ggml.add_bos_token`).
  bool adds_bos() const;
  /// Type "control"; user-defined tokens are shown like text. False outside the vocabulary.
  bool is_control(Token token) const;

 private:
  Tokenizer();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Turns a stream of tokens into a stream of text that never ends inside a UTF-8 character. Bytes
/// that can no longer become a character are replaced by U+FFFD. Control tokens are left out. One
/// thread at a time; the tokenizer must outlive it.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  /// The text that has become complete with this token (may be empty).
  std::string push(Token token);
  /// U+FFFD if the stream ends inside a character, else nothing. Ready for another stream after.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
};

}  // namespace ds4
