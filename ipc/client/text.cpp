#include "ipc/client/text.h"

#include "engine/gguf/gguf.h"

namespace ds4::ipc {

Outcome<std::shared_ptr<const Tokenizer>> Text::tokenizer() {
  if (tokenizer_) return tokenizer_;
  if (!available())
    return failure(DS4_NO_TEXT,
                   "the agent has sent no tokenizer tables: it had no model when this "
                   "program connected; connect again once `ds4ctl status` says ready");
  const auto file = GgufFile::parse(metadata_.bytes(), metadata_.size());
  if (!file) return failure(DS4_INTERNAL, "the agent's model tables: " + file.error().message);
  auto loaded = Tokenizer::load(*file);
  if (!loaded) return failure(DS4_INTERNAL, "the agent's model tables: " + loaded.error().message);
  tokenizer_ = std::make_shared<const Tokenizer>(std::move(*loaded));
  return tokenizer_;
}

Token Text::bos() {
  read_special();
  return bos_;
}

Token Text::eos() {
  read_special();
  return eos_;
}

void Text::read_special() {
  if (has_special_ || !available()) return;
  has_special_ = true;
  const auto file = GgufFile::parse(metadata_.bytes(), metadata_.size());
  if (!file) return;
  const auto id = [&](const char* key) {
    const auto value = file->u32(key);
    return value && *value <= INT32_MAX ? static_cast<Token>(*value) : Token{-1};
  };
  bos_ = id("tokenizer.ggml.bos_token_id");
  eos_ = id("tokenizer.ggml.eos_token_id");
}

}  // namespace ds4::ipc
