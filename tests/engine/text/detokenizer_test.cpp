#include <gtest/gtest.h>

#include <random>
#include <string>

#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "tests/engine/text/tokenizer_fixture.h"

namespace ds4 {
namespace {

/// One token per byte, so that every character is split.
struct DetokenizerTest : ::testing::Test {
  DetokenizerTest() {
    stop = metadata.add("<stop>", 3);
    auto loaded = metadata.load();
    if (!loaded) throw std::runtime_error(loaded.error().message);
    tokenizer = std::make_unique<Tokenizer>(std::move(*loaded));
    detokenizer = std::make_unique<Detokenizer>(*tokenizer);
  }

  std::string push(std::string_view bytes) {
    std::string text;
    for (const char c : bytes) text += detokenizer->push(static_cast<unsigned char>(c));
    return text;
  }

  test::TokenizerMetadata metadata;
  Token stop = -1;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Detokenizer> detokenizer;
};

TEST_F(DetokenizerTest, HoldsACharacterBackUntilItIsWhole) {
  EXPECT_EQ(detokenizer->push('a'), "a");
  EXPECT_EQ(push("\xF0\x9F\x98"), "");
  EXPECT_EQ(push("\x80"), "😀");
  EXPECT_EQ(detokenizer->finish(), "");
}

TEST_F(DetokenizerTest, EndsInsideACharacterWithAReplacement) {
  EXPECT_EQ(push("ok\xE4\xB8"), "ok");
  EXPECT_EQ(detokenizer->finish(), "\uFFFD");
  EXPECT_EQ(detokenizer->finish(), "");
  EXPECT_EQ(push("next"), "next");
}

TEST_F(DetokenizerTest, ReplacesBytesThatCannotBecomeACharacter) {
  EXPECT_EQ(push("a\xFF"
                 "b"),
            "a\uFFFDb");
  EXPECT_EQ(push("\xE4\xB8"
                 "c"),
            "\uFFFDc");  // one replacement for the broken start
  EXPECT_EQ(push("\xE4\xE4\xB8\x96"), "\uFFFD世");
}

TEST_F(DetokenizerTest, LeavesControlTokensOut) {
  EXPECT_EQ(push("\xE4"), "");
  EXPECT_EQ(detokenizer->push(stop), "");
  EXPECT_EQ(push("\xB8\x96"), "世");
}

TEST_F(DetokenizerTest, EveryPushOfAnyBytesIsValidUtf8) {
  std::mt19937 random(3);
  for (int i = 0; i < 20000; ++i) {
    const std::string text = detokenizer->push(static_cast<Token>(random() % 256));
    for (std::string_view rest = text; !rest.empty();) {
      const Utf8Char c = next_utf8(rest);
      ASSERT_EQ(c.status, Utf8Status::kValid);
      rest.remove_prefix(c.bytes);
    }
  }
}

}  // namespace
}  // namespace ds4
