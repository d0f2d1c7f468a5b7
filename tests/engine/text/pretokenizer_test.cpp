#include "engine/text/pretokenizer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

namespace ds4 {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(std::string_view text) {
  Pieces pieces;
  for (const std::size_t bytes : split_words(text)) {
    pieces.emplace_back(text.substr(0, bytes));
    text.remove_prefix(bytes);
  }
  EXPECT_TRUE(text.empty());
  return pieces;
}

TEST(SplitWords, TakesNumbersThreeDigitsAtATime) {
  EXPECT_EQ(split("12345678"), (Pieces{"123", "456", "78"}));
  EXPECT_EQ(split("½Ⅷ٣٤"), (Pieces{"½Ⅷ٣", "٤"}));
}

TEST(SplitWords, GivesAWordTheOneSpaceBeforeIt) {
  EXPECT_EQ(split("a  b   c "), (Pieces{"a", " ", " b", "  ", " c", " "}));
  EXPECT_EQ(split("a\tb"), (Pieces{"a", "\tb"}));
}

TEST(SplitWords, NumbersEndTheTextBeforeThem) {
  // So the look-ahead of \s+(?!\S) sees the end, and both spaces stay together.
  EXPECT_EQ(split("a  1"), (Pieces{"a", "  ", "1"}));
}

TEST(SplitWords, JoinsOnePunctuationMarkToAsciiLettersOnly) {
  EXPECT_EQ(split("don't"), (Pieces{"don", "'t"}));
  EXPECT_EQ(split("$élan"), (Pieces{"$", "élan"}));
}

TEST(SplitWords, KeepsLineBreaksWithPunctuationAndSpacesBeforeThem) {
  EXPECT_EQ(split("end.\r\n\nx"), (Pieces{"end", ".\r\n\n", "x"}));
  EXPECT_EQ(split(" \n  \n  x"), (Pieces{" \n  \n", " ", " x"}));
}

TEST(SplitWords, CutsAroundChineseAndKana) {
  EXPECT_EQ(split("ab世界 x"), (Pieces{"ab", "世界", " x"}));
  EXPECT_EQ(split("カ・ナ"), (Pieces{"カ", "・", "ナ"}));  // the middle dot is punctuation
}

TEST(SplitWords, InvalidBytesArePiecesOfTheirOwn) {
  EXPECT_EQ(split("a\xFF\xE4\xB8z"), (Pieces{"a", "\xFF", "\xE4", "\xB8", "z"}));
}

TEST(SplitWords, EmptyTextHasNoPieces) {
  EXPECT_TRUE(split_words("").empty());
}

// 400 texts of awkward characters, cut by the three patterns themselves (Python's `regex`, findall
// one pattern after the other, unmatched text kept), one JSON array of pieces a line.
TEST(SplitWords, AgreesWithTheRegularExpressions) {
  std::ifstream file(DS4_SOURCE_DIR "/tests/engine/text/data/joyai_llm_cases.jsonl");
  std::size_t cases = 0;
  for (std::string line; std::getline(file, line); ++cases) {
    const auto expected = nlohmann::json::parse(line).get<Pieces>();
    std::string text;
    for (const std::string& piece : expected) text += piece;
    EXPECT_EQ(split(text), expected) << line;
  }
  EXPECT_EQ(cases, 400u);
}

TEST(SplitWords, AnyBytesAreCoveredByNonEmptyPieces) {
  std::mt19937 random(11);
  for (int round = 0; round < 500; ++round) {
    std::string text(random() % 64, '\0');
    for (char& c : text) c = static_cast<char>(random());
    for (const std::string& piece : split(text)) EXPECT_FALSE(piece.empty());
  }
}

}  // namespace
}  // namespace ds4
