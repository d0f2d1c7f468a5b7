#include "agent/ds4d/expected_probers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::agent {
namespace {

using std::chrono::seconds;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

const ExpectedProbers::TimePoint kStart{seconds(1000)};
constexpr keys::KeyBytes kAnna{1};
constexpr keys::KeyBytes kBert{2};
constexpr keys::KeyBytes kCara{3};

TEST(ExpectedProbers, APlannersWordReplacesHisFormerOneAndNobodyElses) {
  ExpectedProbers expected;
  ASSERT_TRUE(expected.expect("one", {kAnna, kBert}, kStart));
  ASSERT_TRUE(expected.expect("two", {kBert, kCara}, kStart));
  ASSERT_TRUE(expected.expect("one", {kAnna}, kStart));
  EXPECT_THAT(expected.probers(), UnorderedElementsAre(kAnna, kBert, kCara));
  ASSERT_TRUE(expected.expect("two", {}, kStart));
  EXPECT_THAT(expected.probers(), UnorderedElementsAre(kAnna));
  ASSERT_TRUE(expected.expect("two", {}, kStart)) << "which is no news";
  ASSERT_TRUE(expected.expect("one", {}, kStart));
  EXPECT_THAT(expected.probers(), IsEmpty());
}

TEST(ExpectedProbers, AWordEndsByItselfUnlessItIsSaidAgain) {
  ExpectedProbers expected;
  ASSERT_TRUE(expected.expect("one", {kAnna}, kStart));
  ASSERT_TRUE(expected.expect("two", {kBert}, kStart + seconds(10)));
  EXPECT_FALSE(expected.expire(kStart + seconds(29)));
  ASSERT_TRUE(expected.expect("one", {kAnna}, kStart + seconds(29)));
  EXPECT_FALSE(expected.expire(kStart + seconds(30)));
  EXPECT_TRUE(expected.expire(kStart + seconds(40)));
  EXPECT_THAT(expected.probers(), UnorderedElementsAre(kAnna));
  EXPECT_TRUE(expected.expire(kStart + seconds(59)));
  EXPECT_THAT(expected.probers(), IsEmpty());
  EXPECT_FALSE(expected.expire(kStart + seconds(100)));
}

TEST(ExpectedProbers, OneTooManyIsRefusedUntilAnothersTimeIsUp) {
  ExpectedProbers expected;
  for (std::size_t i = 0; i < kMostPlanners; ++i) {
    ASSERT_TRUE(expected.expect("planner " + std::to_string(i), {kAnna}, kStart));
  }
  const auto refused = expected.expect("late", {kBert}, kStart + seconds(1));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(refused.error().message, ::testing::HasSubstr("try again"));
  EXPECT_TRUE(expected.expect("planner 3", {kBert}, kStart + seconds(2))) << "he is known";
  EXPECT_TRUE(expected.expect("late", {}, kStart + seconds(2))) << "he has said nothing";
  ASSERT_TRUE(expected.expect("late", {kBert}, kStart + seconds(30)));
  EXPECT_THAT(expected.probers(), UnorderedElementsAre(kBert, kBert));
}

}  // namespace
}  // namespace ds4::agent
