// Any text becomes tokens of the vocabulary and the same bytes again, and without `control` never a
// control token. The first byte chooses `control`, so that the corpus covers both.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "tests/engine/text/tokenizer_fixture.h"

namespace {

const ds4::Tokenizer& embedded_tokenizer() {
  static const ds4::Tokenizer tokenizer = [] {
    auto loaded = ds4::test::load_tokenizer(DS4_SOURCE_DIR "/packaging/models/tiny-v4-q4.gguf");
    if (!loaded) {
      std::fprintf(stderr, "%s\n", loaded.error().message.c_str());
      std::abort();
    }
    return std::move(*loaded);
  }();
  return tokenizer;
}

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const ds4::Utf8Char c = ds4::next_utf8(text);
    if (c.status != ds4::Utf8Status::kValid) return false;
    text.remove_prefix(c.bytes);
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const ds4::Tokenizer& tokenizer = embedded_tokenizer();
  const bool control = (data[0] & 1) != 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);

  const std::vector<ds4::Token> tokens = tokenizer.encode(text, control);
  ds4::Detokenizer detokenizer(tokenizer);
  for (const ds4::Token token : tokens) {
    require(token >= 0 && static_cast<std::uint32_t>(token) < tokenizer.vocabulary(),
            "every token is of the vocabulary");
    require(control || !tokenizer.is_control(token), "text does not become a control token");
    require(is_utf8(detokenizer.push(token)), "streamed text is UTF-8");
  }
  require(is_utf8(detokenizer.finish()), "the end of streamed text is UTF-8");
  require(tokenizer.decode(tokens, true) == text, "decoding gives the bytes back");
  return 0;
}
