#pragma once
// A small, complete byte-level vocabulary whose metadata a test can spoil one key at a time, and
// the embedded model's own tokenizer.
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "engine/text/byte_map.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/gguf/gguf_builder.h"

namespace ds4::test {

/// A character as UTF-8; enough of it for the byte map (below U+0800).
inline std::string utf8(char32_t c) {
  if (c < 0x80) return {static_cast<char>(c)};
  return {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
}

/// Bytes as a vocabulary file writes them.
inline std::string mapped(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) text += utf8(byte_to_char(static_cast<unsigned char>(c)));
  return text;
}

/// Everything the tokenizer reads. The defaults: tokens 0..255 are the bytes, then what merges
/// make, then control tokens.
struct TokenizerMetadata {
  std::optional<std::string> model = "gpt2";
  std::optional<std::string> pre = "joyai-llm";
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
  std::vector<std::string> merges;
  std::optional<std::uint32_t> bos;
  std::optional<std::uint32_t> eos;

  TokenizerMetadata() {
    for (unsigned byte = 0; byte < 256; ++byte)
      add(mapped(std::string(1, static_cast<char>(byte))), 1);
  }

  Token add(std::string text, std::int32_t type) {
    tokens.push_back(std::move(text));
    types.push_back(type);
    return static_cast<Token>(tokens.size() - 1);
  }
  /// A merge of two tokens' bytes, and the token that it makes.
  Token merge(std::string_view left, std::string_view right) {
    merges.push_back(mapped(left) + " " + mapped(right));
    return add(mapped(std::string(left) + std::string(right)), 1);
  }

  Bytes header() const {
    GgufBuilder builder;
    if (model) builder.meta("tokenizer.ggml.model", std::string_view(*model));
    if (pre) builder.meta("tokenizer.ggml.pre", std::string_view(*pre));
    builder.meta_array("tokenizer.ggml.tokens", std::span<const std::string>(tokens));
    builder.meta_array("tokenizer.ggml.token_type", std::span<const std::int32_t>(types));
    builder.meta_array("tokenizer.ggml.merges", std::span<const std::string>(merges));
    if (bos) builder.meta("tokenizer.ggml.bos_token_id", *bos);
    if (eos) builder.meta("tokenizer.ggml.eos_token_id", *eos);
    return builder.header();
  }

  Result<Tokenizer> load() const {
    const Bytes bytes = header();
    DS4_ASSIGN(const GgufFile file, GgufFile::parse(bytes, bytes.size()));
    return Tokenizer::load(file);
  }
};

/// The tokenizer of a model file of the tree. Reads no more than the header needs.
inline Result<Tokenizer> load_tokenizer(const std::string& path) {
  constexpr std::size_t kHeaderBytes = 1 << 20;
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const auto file_bytes = static_cast<std::uint64_t>(file.tellg());
  file.seekg(0);
  Bytes header(kHeaderBytes);
  file.read(reinterpret_cast<char*>(header.data()), kHeaderBytes);
  if (file.gcount() <= 0) return fail(ErrorCode::kIo, "cannot read " + path);
  header.resize(static_cast<std::size_t>(file.gcount()));
  DS4_ASSIGN(const GgufFile gguf, GgufFile::parse(header, file_bytes));
  return Tokenizer::load(gguf);
}

}  // namespace ds4::test
