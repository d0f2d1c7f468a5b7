#include "agent/loader/load_speed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::agent {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(SecondsLeft, GoOnAsTheyWent) {
  EXPECT_EQ(seconds_left(100, 300, 2.0), 6u);
  EXPECT_EQ(seconds_left(100, 1, 2.0), 1u);  // rounded up: never "0 s left" before the end
  EXPECT_EQ(seconds_left(100, 0, 2.0), 0u);
}

TEST(SecondsLeft, AreNotKnownBeforeTheFirstByte) {
  EXPECT_EQ(seconds_left(0, 300, 2.0), 0u);
  EXPECT_EQ(seconds_left(1, UINT64_MAX, 1e9), 1'000'000'000u);
  EXPECT_EQ(seconds_left(5, 5, 0.0), 0u);
}

TEST(LoadSpeed, WhatWasThereBeforeDoesNotCountAsSpeed) {
  LoadSpeed speed;
  speed.begin();
  speed.count(1'000'000, 1'000'010);
  EXPECT_EQ(speed.progress().bytes_done, 1'000'000u);
  EXPECT_EQ(speed.progress().bytes_total, 1'000'010u);
  EXPECT_EQ(speed.progress().seconds_left, 0u);
  speed.count(1'000'005, 1'000'010);
  EXPECT_GE(speed.progress().seconds_left, 1u);
  speed.count(1'000'010, 1'000'010);
  EXPECT_EQ(speed.progress().seconds_left, 0u);
}

TEST(DescribeFigures, SaysWhereTheBytesCameFrom) {
  LoadFigures figures;
  figures.took = std::chrono::seconds(2);
  figures.read_bytes = 4ull << 30;
  EXPECT_THAT(describe(figures), AllOf(HasSubstr("4.00 GiB read in 2.00 s (2.15 GB/s)"),
                                       Not(HasSubstr("already")), Not(HasSubstr("before"))));
  figures.read_bytes = 0;
  figures.kept_bytes = 1ull << 30;
  figures.adopted_bytes = 2ull << 30;
  EXPECT_THAT(describe(figures), AllOf(HasSubstr("0.00 GiB read"), Not(HasSubstr("GB/s")),
                                       HasSubstr("1.00 GiB were resident already"),
                                       HasSubstr("2.00 GiB had been left in memory")));
}

}  // namespace
}  // namespace ds4::agent
