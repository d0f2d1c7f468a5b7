#include "engine/text/bpe.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tests/engine/text/tokenizer_fixture.h"

namespace ds4 {
namespace {

struct Tables {
  Vocabulary vocabulary;
  MergeTable merges;
};

Result<Tables> load(const test::TokenizerMetadata& metadata) {
  const test::Bytes bytes = metadata.header();
  DS4_ASSIGN(const GgufFile file, GgufFile::parse(bytes, bytes.size()));
  DS4_ASSIGN(Vocabulary vocabulary, Vocabulary::load(file));
  DS4_ASSIGN(MergeTable merges, MergeTable::load(file, vocabulary));
  return Tables{std::move(vocabulary), std::move(merges)};
}

/// The rule word for word, in quadratic time.
std::vector<Token> merge_naively(std::string_view word, const Tables& tables) {
  std::vector<Token> tokens;
  for (const char c : word) {
    tokens.push_back(tables.vocabulary.byte_token(static_cast<unsigned char>(c)));
  }
  for (;;) {
    std::size_t best = tokens.size();
    MergeTable::Merge best_merge;
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto merge = tables.merges.find(tokens[i], tokens[i + 1]);
      if (merge.token >= 0 && (best == tokens.size() || merge.rank < best_merge.rank)) {
        best = i;
        best_merge = merge;
      }
    }
    if (best == tokens.size()) return tokens;
    tokens[best] = best_merge.token;
    tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

std::vector<Token> merge(std::string_view word, const Tables& tables) {
  std::vector<Token> tokens;
  WordMerger(tables.vocabulary, tables.merges).encode(word, tokens);
  return tokens;
}

TEST(WordMerger, LowestRankGoesFirstEvenIfItStandsLater) {
  test::TokenizerMetadata metadata;
  const Token bc = metadata.merge("b", "c");
  metadata.merge("a", "b");
  const auto tables = load(metadata);
  ASSERT_TRUE(tables) << tables.error().message;
  EXPECT_EQ(merge("abc", *tables), (std::vector<Token>{'a', bc}));
}

TEST(WordMerger, LeftmostOfEqualPairsGoesFirst) {
  test::TokenizerMetadata metadata;
  const Token aa = metadata.merge("a", "a");
  const auto tables = load(metadata);
  ASSERT_TRUE(tables) << tables.error().message;
  EXPECT_EQ(merge("aaaaa", *tables), (std::vector<Token>{aa, aa, 'a'}));
}

TEST(WordMerger, AgreesWithTheRuleOnRandomVocabulariesAndWords) {
  std::mt19937 random(5);
  for (int round = 0; round < 40; ++round) {
    test::TokenizerMetadata metadata;
    std::vector<std::string> made = {"a", "b", "c"};
    for (int i = 0; i < 40; ++i) {
      const std::string left = made[random() % made.size()];
      const std::string right = made[random() % made.size()];
      if (std::find(made.begin(), made.end(), left + right) != made.end()) continue;
      metadata.merge(left, right);
      made.push_back(left + right);
    }
    const auto tables = load(metadata);
    ASSERT_TRUE(tables) << tables.error().message;
    for (int i = 0; i < 50; ++i) {
      std::string word(random() % 40, '\0');
      for (char& c : word) c = static_cast<char>('a' + random() % 3);
      EXPECT_EQ(merge(word, *tables), merge_naively(word, *tables)) << word;
    }
  }
}

// In quadratic time this would take the better part of an hour and run into the test's time limit.
TEST(WordMerger, OneWordOfAMegabyteIsAffordable) {
  test::TokenizerMetadata metadata;
  std::string run = "a";
  Token longest = 'a';
  for (int i = 0; i < 10; ++i, run += run) longest = metadata.merge(run, run);
  const auto tables = load(metadata);
  ASSERT_TRUE(tables) << tables.error().message;
  EXPECT_EQ(merge(std::string(1 << 20, 'a'), *tables), std::vector<Token>(1 << 10, longest));
}

}  // namespace
}  // namespace ds4
