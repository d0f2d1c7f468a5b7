// What metadata a tokenizer refuses, and how it says so.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/text/tokenizer.h"
#include "tests/engine/text/tokenizer_fixture.h"

namespace ds4 {
namespace {

using ::testing::HasSubstr;

void expect_refused(const test::TokenizerMetadata& metadata, ErrorCode code,
                    std::string_view message_part) {
  const auto tokenizer = metadata.load();
  ASSERT_FALSE(tokenizer);
  EXPECT_EQ(tokenizer.error().code, code) << tokenizer.error().message;
  EXPECT_THAT(tokenizer.error().message, HasSubstr(std::string(message_part)));
}

TEST(TokenizerLoad, TakesAWellFormedVocabulary) {
  test::TokenizerMetadata metadata;
  metadata.bos = static_cast<std::uint32_t>(metadata.add("<begin>", 3));
  const auto tokenizer = metadata.load();
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->vocabulary(), 257u);
  EXPECT_EQ(tokenizer->bos(), 256);
  EXPECT_EQ(tokenizer->eos(), -1);
  EXPECT_FALSE(tokenizer->adds_bos());
}

TEST(TokenizerLoad, NamesTheModelOrPretokenizerItDoesNotKnow) {
  test::TokenizerMetadata metadata;
  metadata.pre = "llama-bpe";
  expect_refused(metadata, ErrorCode::kUnsupported, "tokenizer.ggml.pre is \"llama-bpe\"");
  metadata.model = "llama";
  expect_refused(metadata, ErrorCode::kUnsupported, "tokenizer.ggml.model is \"llama\"");
}

TEST(TokenizerLoad, NamesTheMissingKey) {
  test::TokenizerMetadata metadata;
  metadata.pre.reset();
  expect_refused(metadata, ErrorCode::kNotFound, "tokenizer.ggml.pre");
}

TEST(TokenizerLoad, RefusesTokenTypesThatDoNotMatchTheTokens) {
  test::TokenizerMetadata metadata;
  metadata.types.pop_back();
  expect_refused(metadata, ErrorCode::kCorrupt, "tokenizer.ggml.token_type has 255 entries");
}

TEST(TokenizerLoad, RefusesAnUnknownTokenType) {
  test::TokenizerMetadata metadata;
  metadata.types[65] = 6;
  expect_refused(metadata, ErrorCode::kUnsupported, "token 65 has type 6");
  metadata.types[65] = -1;
  EXPECT_FALSE(metadata.load());
}

TEST(TokenizerLoad, RefusesDuplicateTokens) {
  test::TokenizerMetadata metadata;
  metadata.add("A", 1);
  expect_refused(metadata, ErrorCode::kCorrupt, "tokens 65 and 256 are the same");
}

TEST(TokenizerLoad, UnusedTokensMayRepeatAndAreNeverFound) {
  test::TokenizerMetadata metadata;
  metadata.add("[PAD]", 5);
  metadata.add("[PAD]", 5);
  const auto tokenizer = metadata.load();
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->find("[PAD]"), -1);
  EXPECT_EQ(tokenizer->encode("[PAD]", true).size(), 5u);
}

TEST(TokenizerLoad, RefusesCharactersOutsideTheByteMap) {
  test::TokenizerMetadata metadata;
  metadata.add("世", 1);
  expect_refused(metadata, ErrorCode::kCorrupt,
                 "token 256 has a character that stands for no byte");
}

TEST(TokenizerLoad, RefusesAnEmptyToken) {
  test::TokenizerMetadata metadata;
  metadata.add("", 3);
  expect_refused(metadata, ErrorCode::kCorrupt, "token 256 has 0 bytes");
}

TEST(TokenizerLoad, RefusesAVocabularyThatLacksAByte) {
  test::TokenizerMetadata metadata;
  metadata.tokens[0x41] = "AA";
  expect_refused(metadata, ErrorCode::kCorrupt, "no token for the byte 0x41");
  metadata.tokens[0x41] = "A";
  metadata.types[0x41] = 3;
  expect_refused(metadata, ErrorCode::kCorrupt, "no token for the byte 0x41");
}

TEST(TokenizerLoad, RefusesMergesOfUnknownTokens) {
  for (const char* merge : {"a b", "ab c", "a bc"}) {
    test::TokenizerMetadata metadata;
    metadata.merges = {merge};
    expect_refused(metadata, ErrorCode::kCorrupt, "merge 0 names or makes a token that is not in");
  }
}

TEST(TokenizerLoad, RefusesMalformedMerges) {
  test::TokenizerMetadata metadata;
  metadata.add("ab", 1);
  metadata.merges = {"a b", "ab"};
  expect_refused(metadata, ErrorCode::kCorrupt, "merge 1 is not two tokens");
  metadata.merges = {"a b c"};
  expect_refused(metadata, ErrorCode::kCorrupt, "merge 0 has a character that stands for no byte");
  metadata.merges = {" a"};
  expect_refused(metadata, ErrorCode::kCorrupt, "merge 0");
}

TEST(TokenizerLoad, RefusesMergesThatWouldForgeAControlToken) {
  for (const int type : {3, 4}) {
    test::TokenizerMetadata metadata;
    metadata.add("<|", type);
    metadata.merges = {"< |"};
    expect_refused(metadata, ErrorCode::kCorrupt, "merge 0 names or makes a control token");
  }
}

TEST(TokenizerLoad, FirstOfRepeatedMergesHolds) {
  test::TokenizerMetadata metadata;
  const Token ab = metadata.merge("a", "b");
  metadata.merge("b", "c");
  metadata.merges.push_back("a b");  // must not move the pair behind "b c"
  const auto tokenizer = metadata.load();
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->encode("abc", false), (std::vector<Token>{ab, 'c'}));
}

TEST(TokenizerLoad, RefusesIdsOutsideTheVocabulary) {
  test::TokenizerMetadata metadata;
  metadata.bos = 256;
  expect_refused(metadata, ErrorCode::kCorrupt, "tokenizer.ggml.bos_token_id is 256");
  metadata.bos = 0;
  metadata.eos = 0xFFFFFFFF;
  expect_refused(metadata, ErrorCode::kCorrupt, "tokenizer.ggml.eos_token_id is 4294967295");
}

}  // namespace
}  // namespace ds4
