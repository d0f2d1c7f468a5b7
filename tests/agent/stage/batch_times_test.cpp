#include "agent/stage/batch_times.h"

#include <gtest/gtest.h>

namespace ds4::agent {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

/// A machine on which a batch costs `fixed` and each row `per_row`.
BatchTimes learnt(microseconds fixed, microseconds per_row) {
  BatchTimes times;
  for (std::uint32_t rows = 1; rows <= 1024; rows *= 2) times.add(rows, fixed + rows * per_row);
  return times;
}

TEST(BatchTimes, KnowsNothingAtFirst) {
  const BatchTimes times;
  EXPECT_FALSE(times.guess(1));
  EXPECT_EQ(times.rows_within(milliseconds(1), 512), 512U);
  EXPECT_EQ(times.rows_to_pipeline(4096, 2, 512), 512U);
}

TEST(BatchTimes, GuessesBetweenWhatItSawOnAStraightLine) {
  BatchTimes times;
  times.add(10, microseconds(100));
  times.add(100, microseconds(1000));
  EXPECT_EQ(*times.guess(10), microseconds(100));
  EXPECT_EQ(*times.guess(55), microseconds(550));
  EXPECT_EQ(*times.guess(100), microseconds(1000));
}

TEST(BatchTimes, DoesNotHopeOutsideOfWhatItSaw) {
  BatchTimes times;
  times.add(8, microseconds(80));
  EXPECT_EQ(*times.guess(1), microseconds(80));
  EXPECT_EQ(*times.guess(80), microseconds(800));
}

TEST(BatchTimes, FollowsAMachineThatChangesAndForgetsWhatWasLongAgo) {
  BatchTimes times;
  times.add(64, milliseconds(500));  // a cold start
  times.add(1, microseconds(10));
  for (int i = 0; i < 100; ++i) times.add(1, microseconds(20));
  EXPECT_NEAR(static_cast<double>(times.guess(1)->count()), 20e3, 100);
  EXPECT_GT(*times.guess(64), milliseconds(400));
  for (int i = 0; i < 1000; ++i) times.add(1, microseconds(20));
  EXPECT_LT(*times.guess(64), milliseconds(2)) << "one bad moment must not count for ever";
}

TEST(BatchTimes, RowsWithinATimeAreTheMostThatFit) {
  const BatchTimes times = learnt(microseconds(0), microseconds(10));
  EXPECT_EQ(times.rows_within(milliseconds(1000), 512), 512U);
  const std::uint32_t rows = times.rows_within(microseconds(1000), 512);
  EXPECT_LE(*times.guess(rows), microseconds(1000));
  EXPECT_GE(rows, 90U);
  EXPECT_EQ(times.rows_within(microseconds(9), 512), 0U);
}

TEST(BatchTimes, APromptGoesInSmallerBatchesWhereABatchItselfCostsLittle) {
  const BatchTimes cheap = learnt(microseconds(50), microseconds(100));
  const BatchTimes dear = learnt(milliseconds(500), milliseconds(1));
  const std::uint32_t small = cheap.rows_to_pipeline(4096, 2, 512);
  EXPECT_LE(small, 128U);
  EXPECT_GE(small, 16U);
  EXPECT_EQ(dear.rows_to_pipeline(4096, 2, 512), 512U);
  EXPECT_EQ(cheap.rows_to_pipeline(4096, 1, 512), 512U) << "nobody else to keep busy";
}

/// Sizes that never ran are judged by the line through those that did, whatever their noise.
TEST(BatchTimes, TwoSizesTellWhatTheOthersCost) {
  BatchTimes few, noisy;
  few.add(20, microseconds(5000 + 20 * 100));
  EXPECT_EQ(few.rows_to_pipeline(4096, 2, 512), 512U) << "one size is no line";
  few.add(300, microseconds(5000 + 300 * 100));
  const BatchTimes all = learnt(microseconds(5000), microseconds(100));
  EXPECT_EQ(few.rows_to_pipeline(4096, 2, 512), all.rows_to_pipeline(4096, 2, 512));
  for (std::uint32_t rows = 16; rows <= 512; rows *= 2) {
    noisy.add(rows, microseconds((5000 + rows * 100) * (rows % 3 == 1 ? 115 : 87) / 100));
  }
  EXPECT_NEAR(noisy.rows_to_pipeline(4096, 2, 512), all.rows_to_pipeline(4096, 2, 512), 100);
}

TEST(BatchTimes, DecodeStepsDoNotSayWhatABatchOfAPromptCosts) {
  BatchTimes times = learnt(microseconds(5000), microseconds(100));
  const std::uint32_t rows = times.rows_to_pipeline(4096, 2, 512);
  for (int i = 0; i < 50; ++i) times.add(1, microseconds(300));
  EXPECT_EQ(times.rows_to_pipeline(4096, 2, 512), rows);
}

/// The sizes of one's choice are compared with every other by simulating the pipeline.
TEST(BatchTimes, NoOtherSizeIsMuchSooner) {
  for (const std::uint32_t fixed_us : {50U, 500U, 5000U, 50000U}) {
    const BatchTimes times = learnt(microseconds(fixed_us), microseconds(100));
    const auto takes = [&](std::uint32_t size) {
      const std::uint32_t batches = (2048 + size - 1) / size;
      return (batches + 2) * (fixed_us + 100.0 * size + 200);
    };
    const std::uint32_t chosen = times.rows_to_pipeline(2048, 3, 512);
    for (std::uint32_t size = 1; size <= 512; ++size) {
      EXPECT_LT(takes(chosen), takes(size) * 1.1)
          << fixed_us << " us, " << chosen << " or " << size;
    }
  }
}

}  // namespace
}  // namespace ds4::agent
