#include "engine/cuda/device_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace ds4::cuda {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kGranularity = 2u << 20;

SpanCover cover_of(const std::vector<Span>& spans, std::uint64_t file_bytes) {
  return SpanCover::from_spans(spans, file_bytes, kPage).value();
}

TEST(DevicePlan, PutsIntervalsBackToBack) {
  const SpanCover cover = cover_of({{kPage, 10}, {100 * kPage, 3 * kPage}}, 1000 * kPage);
  const auto plan = DevicePlan::make(cover, kGranularity).value();
  EXPECT_TRUE(std::ranges::equal(
      plan.extents(), std::vector<Extent>{{kPage, kPage, 0}, {100 * kPage, 3 * kPage, kPage}}));
  EXPECT_EQ(plan.payload_bytes(), cover.cover_bytes());
  EXPECT_EQ(plan.device_offset(kPage + 7), 7u);
  EXPECT_EQ(plan.device_offset(102 * kPage + 5), 3 * kPage + 5);
}

TEST(DevicePlan, RoundsOnceWhateverTheNumberOfIntervals) {
  std::vector<Span> spans;
  for (std::uint64_t i = 0; i < 500; ++i) spans.push_back({2 * i * kPage, kPage});
  const auto plan = DevicePlan::make(cover_of(spans, 5000 * kPage), kGranularity).value();
  EXPECT_EQ(plan.total_bytes() % kGranularity, 0u);
  EXPECT_LT(plan.total_bytes() - plan.payload_bytes(), kGranularity + 2 * kMarkBytes);
}

TEST(DevicePlan, MarkStandsBehindThePayloadAndInsideTheMemory) {
  // Payloads around the places where the mark just fits and just does not.
  for (const std::uint64_t payload :
       {std::uint64_t{1}, kPage, kGranularity - kMarkBytes, kGranularity - kMarkBytes + 1,
        kGranularity - 1, kGranularity, kGranularity + 1}) {
    const auto plan = DevicePlan::make(cover_of({{0, payload}}, payload), kGranularity).value();
    EXPECT_EQ(plan.payload_bytes(), payload);
    EXPECT_GE(plan.mark_offset(), payload);
    EXPECT_EQ(plan.mark_offset() % kMarkBytes, 0u);
    EXPECT_LE(plan.mark_offset() + kMarkBytes, plan.total_bytes());
  }
}

TEST(DevicePlan, RefusesACoverWithoutBytes) {
  const auto plan = DevicePlan::make(cover_of({}, 10), kGranularity);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, ErrorCode::kOutOfRange);
}

TEST(DevicePlan, RefusesSizesThatOverflow) {
  const std::uint64_t most = ~std::uint64_t{0} - 100;
  const auto plan = DevicePlan::make(cover_of({{0, most}}, most), kGranularity);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, ErrorCode::kOutOfRange);
}

TEST(DevicePlan, KeepsEveryByteOnceAndItsPlaceInAPage) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 50; ++round) {
    std::vector<Span> spans;
    for (int i = 0; i < 20; ++i) spans.push_back({random() % 4'000'000, random() % 50'000});
    const SpanCover cover = cover_of(spans, 5'000'000);
    const auto plan = DevicePlan::make(cover, kGranularity).value();
    std::uint64_t next = 0;
    for (const Interval& interval : cover.intervals()) {
      for (const std::uint64_t at : {interval.begin, interval.end - 1}) {
        EXPECT_EQ(plan.device_offset(at), next + (at - interval.begin));
        EXPECT_EQ(plan.device_offset(at) % kPage, at % kPage);
      }
      next += interval.bytes();
    }
    EXPECT_EQ(next, plan.payload_bytes());
  }
}

TEST(Cut, MakesPiecesThatTogetherAreTheExtents) {
  const std::vector<Extent> extents = {{0, 10 * kPage, 0}, {50 * kPage, 1, 10 * kPage}};
  const auto pieces = cut(extents, 4 * kPage);
  EXPECT_EQ(pieces, (std::vector<Extent>{{0, 4 * kPage, 0},
                                         {4 * kPage, 4 * kPage, 4 * kPage},
                                         {8 * kPage, 2 * kPage, 8 * kPage},
                                         {50 * kPage, 1, 10 * kPage}}));
}

}  // namespace
}  // namespace ds4::cuda
