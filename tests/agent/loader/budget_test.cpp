#include "agent/loader/budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::agent {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kGiB = 1ULL << 30;

SpanCover cover(std::vector<Span> spans) {
  return SpanCover::from_spans(spans, 8 * kGiB, kPage).value();
}

TEST(BytesBeyond, CountsWhatIsNotHeldYet) {
  const SpanCover wanted = cover({{0, 4 * kPage}, {10 * kPage, 2 * kPage}});
  EXPECT_EQ(bytes_beyond(wanted, SpanCover()), 6 * kPage);
  EXPECT_EQ(bytes_beyond(wanted, wanted), 0U);
  EXPECT_EQ(bytes_beyond(wanted, cover({{3 * kPage, 8 * kPage}})), 4 * kPage);
  EXPECT_EQ(bytes_beyond(wanted, cover({{4 * kPage, 6 * kPage}})), 6 * kPage);
}

TEST(CheckBudget, RefusesWithTheNumbersWhatMemoryCannotHold) {
  const SpanCover wanted = cover({{0, 2 * kGiB}});
  EXPECT_TRUE(check_budget(wanted, SpanCover(), 2 * kGiB + kLoadReserveBytes));
  const auto refused = check_budget(wanted, SpanCover(), 2 * kGiB);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(refused.error().message, HasSubstr("2.00 GiB"));
  EXPECT_THAT(refused.error().message, HasSubstr("0.25 GiB"));
}

TEST(CheckBudget, WhatAlreadyServesCostsNothingAgain) {
  const SpanCover wanted = cover({{0, 2 * kGiB}});
  EXPECT_TRUE(check_budget(wanted, cover({{0, 2 * kGiB}}), kGiB));
}

TEST(CheckBudget, UnknownMemoryRefusesNothing) {
  EXPECT_TRUE(check_budget(cover({{0, 8 * kGiB}}), SpanCover(), 0));
}

TEST(ChooseKvBudget, IsWhatIsConfiguredOrAQuarter) {
  Config::Memory memory;
  EXPECT_EQ(choose_kv_budget(memory, 8 * kGiB), 2 * kGiB);
  memory.kv_mib = 10;
  EXPECT_EQ(choose_kv_budget(memory, 8 * kGiB), 10U << 20);
}

TEST(AvailableMemory, IsKnownOnLinux) {
  EXPECT_GT(available_memory_bytes(), 0U);
}

}  // namespace
}  // namespace ds4::agent
