#include "engine/text/tokenizer.h"

#include <fmt/format.h>

#include <utility>

#include "engine/text/bpe.h"
#include "engine/text/control_trie.h"
#include "engine/text/pretokenizer.h"
#include "engine/text/vocabulary.h"

namespace ds4 {

struct Tokenizer::Impl {
  Vocabulary vocabulary;
  MergeTable merges;
  ControlTrie control;
  Token bos = -1;
  Token eos = -1;
  bool adds_bos = false;
};

namespace {

Result<void> check_name(const GgufFile& file, std::string_view key, std::string_view supported) {
  DS4_ASSIGN(const std::string_view name, file.string(key));
  if (name == supported) return {};
  return fail(ErrorCode::kUnsupported,
              fmt::format("{} is \"{}\"; only \"{}\" is supported", key, name, supported));
}

/// The id under `key`; -1 if the file has none.
Result<Token> optional_token(const GgufFile& file, std::string_view key,
                             const Vocabulary& vocabulary) {
  if (!file.has(key)) return Token{-1};
  DS4_ASSIGN(const std::uint64_t id, file.u64(key));
  if (id < vocabulary.size()) return static_cast<Token>(id);
  return fail(ErrorCode::kCorrupt, fmt::format("{} is {}, but the vocabulary has {} tokens", key,
                                               id, vocabulary.size()));
}

ControlTrie control_tokens(const Vocabulary& vocabulary) {
  ControlTrie trie;
  for (Token token = 0; vocabulary.contains(token); ++token) {
    const TokenType type = vocabulary.type(token);
    if (type == TokenType::kControl || type == TokenType::kUserDefined) {
      trie.add(vocabulary.bytes(token), token);
    }
  }
  return trie;
}

}  // namespace

Tokenizer::Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::load(const GgufFile& file) {
  DS4_TRY(check_name(file, "tokenizer.ggml.model", "gpt2"));
  DS4_TRY(check_name(file, "tokenizer.ggml.pre", kPretokenizerName));
  DS4_ASSIGN(Vocabulary vocabulary, Vocabulary::load(file));
  DS4_ASSIGN(MergeTable merges, MergeTable::load(file, vocabulary));
  DS4_ASSIGN(const Token bos, optional_token(file, "tokenizer.ggml.bos_token_id", vocabulary));
  DS4_ASSIGN(const Token eos, optional_token(file, "tokenizer.ggml.eos_token_id", vocabulary));
  bool adds_bos = false;
  if (file.has("tokenizer.ggml.add_bos_token")) {
    DS4_ASSIGN(adds_bos, file.boolean("tokenizer.ggml.add_bos_token"));
  }
  ControlTrie control = control_tokens(vocabulary);

  Tokenizer tokenizer;
  tokenizer.impl_ =
      std::make_unique<Impl>(Impl{std::move(vocabulary), std::move(merges), std::move(control), bos,
                                  eos, adds_bos && bos >= 0});
  return tokenizer;
}

std::uint32_t Tokenizer::vocabulary() const {
  return impl_->vocabulary.size();
}
Token Tokenizer::find(std::string_view text) const {
  return impl_->vocabulary.find(text);
}
Token Tokenizer::bos() const {
  return impl_->bos;
}
Token Tokenizer::eos() const {
  return impl_->eos;
}
bool Tokenizer::adds_bos() const {
  return impl_->adds_bos;
}

bool Tokenizer::is_control(Token token) const {
  return impl_->vocabulary.contains(token) && impl_->vocabulary.type(token) == TokenType::kControl;
}

std::vector<Token> Tokenizer::encode(std::string_view text, bool control) const {
  std::vector<Token> tokens;
  WordMerger merger(impl_->vocabulary, impl_->merges);
  const auto encode_plain = [&](std::string_view plain) {
    for (const std::size_t bytes : split_words(plain)) {
      merger.encode(plain.substr(0, bytes), tokens);
      plain.remove_prefix(bytes);
    }
  };
  std::size_t done = 0;
  while (control && done < text.size()) {
    const ControlTrie::Match match = impl_->control.find(text, done);
    if (match.token < 0) break;
    encode_plain(text.substr(done, match.begin - done));
    tokens.push_back(match.token);
    done = match.begin + match.bytes;
  }
  encode_plain(text.substr(done));
  return tokens;
}

std::string_view Tokenizer::piece(Token token, bool control) const {
  if (!impl_->vocabulary.contains(token)) return {};
  if (!control && is_control(token)) return {};
  return impl_->vocabulary.bytes(token);
}

std::string Tokenizer::decode(std::span<const Token> tokens, bool control) const {
  std::string text;
  for (const Token token : tokens) text += piece(token, control);
  return text;
}

}  // namespace ds4
