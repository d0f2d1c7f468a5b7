#include "ctl/ds4_eval/tokens_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::eval {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(TokensFile, IsAJsonArrayOrIdsBetweenBlanks) {
  EXPECT_THAT(parse_tokens(" [1, 2,\n 3]\n", "t").value(), ElementsAre(1, 2, 3));
  EXPECT_THAT(parse_tokens("1 2\t3\r\n4\n", "t").value(), ElementsAre(1, 2, 3, 4));
}

TEST(TokensFile, NamesTheFirstThingThatIsNoToken) {
  const std::pair<const char*, const char*> cases[] = {
      {"1 two 3", "token 1 is 'two'"},    {"1,2", "token 0 is '1,2'"},
      {"[1, \"x\"]", "token 1 is \"x\""}, {"[1.5]", "token 0 is 1.5"},
      {"[1, [2]]", "token 1 is [2]"},     {"99999999999", "token 0 is '99999999999'"},
      {"[99999999999]", "token 0"},       {"[1, 2", "is none"}};
  for (const auto& [text, expected] : cases) {
    const auto tokens = parse_tokens(text, "t.json");
    ASSERT_FALSE(tokens.has_value()) << text;
    EXPECT_EQ(tokens.error().code, ErrorCode::kCorrupt);
    EXPECT_THAT(tokens.error().message, AllOf(HasSubstr("t.json"), HasSubstr(expected)));
  }
}

TEST(TokensFile, RefusesAFileWithoutTokens) {
  for (const char* text : {"", " \n", "[]"}) EXPECT_FALSE(parse_tokens(text, "t").has_value());
}

TEST(TokensFile, ChecksVocabularyAndContext) {
  EXPECT_TRUE(check_tokens({0, 9}, 10, 2, "t").has_value());
  EXPECT_THAT(check_tokens({0, 10}, 10, 9, "t").error().message,
              AllOf(HasSubstr("token 10 at position 1"), HasSubstr("0 to 9")));
  EXPECT_THAT(check_tokens({-1}, 10, 9, "t").error().message, HasSubstr("token -1 at position 0"));
  EXPECT_THAT(check_tokens({1, 2, 3}, 10, 2, "t").error().message, HasSubstr("context of 2"));
}

TEST(TokensFile, AMissingFileIsNamed) {
  const auto tokens = load_tokens("/nonexistent/tokens.json");
  ASSERT_FALSE(tokens.has_value());
  EXPECT_EQ(tokens.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(tokens.error().message, HasSubstr("/nonexistent/tokens.json"));
  EXPECT_FALSE(load_tokens("/").has_value());
}

}  // namespace
}  // namespace ds4::eval
