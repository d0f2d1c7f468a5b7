#include "engine/cpu/read_bandwidth.h"

#include <gtest/gtest.h>

namespace ds4 {
namespace {

TEST(ReadBandwidth, IsMeasuredWithAnyNumberOfThreads) {
  for (const unsigned threads : {0u, 1u, 3u}) {
    const auto speed = read_bandwidth(threads, 4 << 20, 2);
    ASSERT_TRUE(speed.has_value()) << speed.error().message;
    EXPECT_GT(*speed, 0);
  }
}

TEST(ReadBandwidth, ThatFindsNoMemoryIsAnError) {
  const auto speed = read_bandwidth(1, std::uint64_t{1} << 60, 1);
  ASSERT_FALSE(speed.has_value());
  EXPECT_EQ(speed.error().code, ErrorCode::kResourceExhausted);
}

TEST(ReadBandwidth, TakesAModestBuffer) {
  EXPECT_GE(bandwidth_buffer_bytes(), 1u << 20);
  EXPECT_LE(bandwidth_buffer_bytes(), 512u << 20);
}

}  // namespace
}  // namespace ds4
