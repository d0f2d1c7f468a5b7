#include "ctl/common/coverage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::ctl {
namespace {

using ::testing::HasSubstr;

OwnedRange owned(const std::string& owner, const std::string& text, std::uint32_t blocks = 6) {
  return {owner, LayerRange::parse(text, blocks).value()};
}

std::string refusal(std::vector<OwnedRange> ranges) {
  const auto checked = check_coverage(ranges, 6);
  EXPECT_FALSE(checked.has_value());
  if (checked) return "";
  EXPECT_EQ(checked.error().code, ErrorCode::kInvalidArgument);
  return checked.error().message;
}

TEST(Coverage, ComesBackInTheOrderOfLayers) {
  const std::vector<OwnedRange> ranges = {owned("b", "3:output"), owned("a", "0:2")};
  const auto checked = check_coverage(ranges, 6);
  ASSERT_TRUE(checked.has_value()) << checked.error().message;
  ASSERT_EQ(checked->size(), 2u);
  EXPECT_EQ((*checked)[0].owner, "a");
  EXPECT_EQ((*checked)[1].owner, "b");
}

TEST(Coverage, OneRangeMayBeTheWholeModel) {
  EXPECT_TRUE(check_coverage(std::vector{owned("a", "0:output")}, 6).has_value());
}

TEST(Coverage, NamesTheGapAndItsNeighbours) {
  const std::string message = refusal({owned("a", "0:1"), owned("b", "4:output")});
  EXPECT_THAT(message, HasSubstr("layers 2 to 3"));
  EXPECT_THAT(message, HasSubstr("a (0:1)"));
  EXPECT_THAT(message, HasSubstr("b (4:output)"));
}

TEST(Coverage, NamesTheLayersThatTwoOwn) {
  EXPECT_THAT(refusal({owned("a", "0:3"), owned("b", "3:output")}), HasSubstr("both own layer 3"));
  EXPECT_THAT(refusal({owned("a", "0:output"), owned("b", "2:3")}),
              HasSubstr("both own layers 2 to 3"));
}

TEST(Coverage, SaysThatTheEmbeddingHasNoOwner) {
  const std::string message = refusal({owned("a", "2:output")});
  EXPECT_THAT(message, HasSubstr("token embedding"));
  EXPECT_THAT(message, HasSubstr("0:1"));
}

TEST(Coverage, SaysThatTheOutputHeadHasNoOwner) {
  EXPECT_THAT(refusal({owned("a", "0:2"), owned("b", "3:5")}),
              HasSubstr("output head: b (3:5) must be 3:output"));
  EXPECT_THAT(refusal({owned("a", "0:2"), owned("b", "3:4")}), HasSubstr("5:output"));
}

TEST(Coverage, RefusesNothingAtAll) {
  EXPECT_THAT(refusal({}), HasSubstr("no layers"));
}

TEST(Split, IsAListOfRangesInAnyOrder) {
  const auto split = parse_split("4:output,0:1,2:3", 6);
  ASSERT_TRUE(split.has_value()) << split.error().message;
  ASSERT_EQ(split->size(), 3u);
  EXPECT_EQ((*split)[1].to_string(), "2:3");
}

TEST(Split, RefusesWhatIsNoRangeAndWhatIsNoModel) {
  for (const char* text :
       {"", ",", "0:2,", "0:2,,3:output", "0-2,3:output", "0:2", "0:2,4:output", "0:9,10:output"}) {
    EXPECT_FALSE(parse_split(text, 6).has_value()) << text;
  }
}

}  // namespace
}  // namespace ds4::ctl
