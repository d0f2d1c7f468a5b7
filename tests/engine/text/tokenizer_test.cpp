#include "engine/text/tokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tests/engine/text/tokenizer_fixture.h"

namespace ds4 {
namespace {

using Tokens = std::vector<Token>;

Tokenizer loaded(const test::TokenizerMetadata& metadata) {
  auto tokenizer = metadata.load();
  if (!tokenizer) throw std::runtime_error(tokenizer.error().message);
  return std::move(*tokenizer);
}

/// Control tokens of which one begins another.
struct ControlFixture : ::testing::Test {
  test::TokenizerMetadata metadata;
  Token stop = metadata.add("<stop>", 3);
  Token stop_now = metadata.add("<stop>now", 3);
  Token tag = metadata.add("<tag>", 4);
  Tokenizer tokenizer = loaded(metadata);
};

TEST_F(ControlFixture, ControlTokensAreTextUnlessAskedFor) {
  EXPECT_EQ(tokenizer.encode("<stop>", false), (Tokens{'<', 's', 't', 'o', 'p', '>'}));
  EXPECT_EQ(tokenizer.encode("<stop>", true), Tokens{stop});
  EXPECT_EQ(tokenizer.encode("<tag>", false).size(), 5u);
  EXPECT_EQ(tokenizer.encode("<tag>", true), Tokens{tag});
}

TEST_F(ControlFixture, LongestOfTheFirstWins) {
  EXPECT_EQ(tokenizer.encode("<stop>now", true), Tokens{stop_now});
  EXPECT_EQ(tokenizer.encode("<stop>no", true), (Tokens{stop, 'n', 'o'}));
}

TEST_F(ControlFixture, NearMissesStayText) {
  EXPECT_EQ(tokenizer.encode("<<stop><sto", true), (Tokens{'<', stop, '<', 's', 't', 'o'}));
}

TEST_F(ControlFixture, ControlTokensCutWords) {
  EXPECT_EQ(tokenizer.encode("a<stop>b<stop>", true), (Tokens{'a', stop, 'b', stop}));
}

TEST_F(ControlFixture, PieceHidesControlTokensUnlessAskedFor) {
  EXPECT_EQ(tokenizer.piece(stop), "");
  EXPECT_EQ(tokenizer.piece(stop, true), "<stop>");
  EXPECT_EQ(tokenizer.piece(tag), "<tag>");  // user-defined: shown
  EXPECT_EQ(tokenizer.decode(Tokens{'h', stop, 'i'}), "hi");
  EXPECT_EQ(tokenizer.decode(Tokens{'h', stop, 'i'}, true), "h<stop>i");
  EXPECT_TRUE(tokenizer.is_control(stop));
  EXPECT_FALSE(tokenizer.is_control(tag));
}

TEST_F(ControlFixture, IdsOutsideTheVocabularyAreNothing) {
  for (const Token token : {-1, 259, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer.piece(token, true), "");
    EXPECT_FALSE(tokenizer.is_control(token));
  }
}

TEST(Tokenizer, MergesNeverCrossWords) {
  test::TokenizerMetadata metadata;
  const Token space_b = metadata.merge(" ", "b");
  metadata.merge("a", " b");
  const Tokenizer tokenizer = loaded(metadata);
  EXPECT_EQ(tokenizer.encode("a b", false), (Tokens{'a', space_b}));
}

TEST(Tokenizer, FindsTokensByTheirBytes) {
  test::TokenizerMetadata metadata;
  const Token merged = metadata.merge(" ", "\xFF");
  const Tokenizer tokenizer = loaded(metadata);
  EXPECT_EQ(tokenizer.find(" \xFF"), merged);
  EXPECT_EQ(tokenizer.find("\n"), '\n');
  EXPECT_EQ(tokenizer.find("Ġ"), -1);
  EXPECT_EQ(tokenizer.find(""), -1);
}

TEST(Tokenizer, SurvivesBeingMoved) {
  test::TokenizerMetadata metadata;
  const Token ab = metadata.merge("a", "b");
  Tokenizer first = loaded(metadata);
  Tokenizer second = std::move(first);
  EXPECT_EQ(second.encode("ab", false), Tokens{ab});
  EXPECT_EQ(second.find("ab"), ab);
}

struct EmbeddedTokenizer : ::testing::Test {
  static void SetUpTestSuite() {
    auto loaded = test::load_tokenizer(DS4_SOURCE_DIR "/packaging/models/tiny-v4-q4.gguf");
    ASSERT_TRUE(loaded) << loaded.error().message;
    tokenizer = new Tokenizer(std::move(*loaded));
  }
  static void TearDownTestSuite() { delete tokenizer; }

  static void expect_round_trip(const std::string& text) {
    for (const bool control : {false, true}) {
      const Tokens tokens = tokenizer->encode(text, control);
      EXPECT_EQ(tokenizer->decode(tokens, true), text);
      for (const Token token : tokens) {
        EXPECT_TRUE(control || !tokenizer->is_control(token)) << token;
      }
    }
  }

  static inline Tokenizer* tokenizer = nullptr;
};

std::string random_utf8(std::mt19937& random, std::size_t characters) {
  std::string text;
  while (characters > 0) {
    // Half of them ASCII, the others spread over the ranges where the cuts are made.
    static constexpr char32_t kStarts[] = {0x80,   0x300,  0x660,  0x2000,
                                           0x3000, 0x4E00, 0x9F80, 0x1F600};
    char32_t c = random() % 2 ? random() % 0x80 : kStarts[random() % 8] + random() % 0x100;
    if (c < 0x80) {
      text += static_cast<char>(c);
    } else if (c < 0x800) {
      text += test::utf8(c);
    } else if (c < 0x10000) {
      text += {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)),
               static_cast<char>(0x80 | (c & 0x3F))};
    } else {
      text += {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3F)),
               static_cast<char>(0x80 | (c >> 6 & 0x3F)), static_cast<char>(0x80 | (c & 0x3F))};
    }
    --characters;
  }
  return text;
}

TEST_F(EmbeddedTokenizer, RandomUnicodeRoundTrips) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) expect_round_trip(random_utf8(random, random() % 50));
}

TEST_F(EmbeddedTokenizer, RandomBytesRoundTrip) {
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    std::string text(random() % 50, '\0');
    for (char& c : text) c = static_cast<char>(random());
    expect_round_trip(text);
  }
}

TEST_F(EmbeddedTokenizer, InvalidBytesBecomeByteTokens) {
  const std::string text = "\xE4\xB8";  // the start of a Chinese character
  const Tokens expected = {tokenizer->find("\xE4"), tokenizer->find("\xB8")};
  EXPECT_EQ(tokenizer->encode(text, true), expected);
}

// In quadratic time these would run into the test's time limit.
TEST_F(EmbeddedTokenizer, AMegabyteOfAnythingIsAffordable) {
  constexpr std::size_t kBytes = 1 << 20;
  for (const char* unit :
       {" ", "\n", " \n", "a", "th", "<", "<｜User", "1", "!", "\xFF", "世", "\x01"}) {
    std::string text;
    while (text.size() < kBytes) text += unit;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, true), true), text);
  }
}

}  // namespace
}  // namespace ds4
