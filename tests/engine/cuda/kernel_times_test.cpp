#include "engine/cuda/kernel_times.h"

#include <gtest/gtest.h>

namespace ds4 {
namespace {

TEST(KernelTimes, SumsUpByNameInTheOrderOfTheFirst) {
  KernelTimes call;
  call.add("router", 1, 0.5);
  call.add("attention", 2, 4);
  call.add("router", 1, 0.25);
  KernelTimes calls;
  calls.add("attention", 1, 1);
  calls.add(call.all());
  ASSERT_EQ(calls.all().size(), 2u);
  EXPECT_EQ(calls.all()[0].name, "attention");
  EXPECT_EQ(calls.all()[0].launches, 3u);
  EXPECT_EQ(calls.all()[0].ms, 5);
  EXPECT_EQ(calls.all()[1].launches, 2u);
  EXPECT_EQ(calls.total_ms(), 5.75);
  calls.clear();
  EXPECT_EQ(calls.total_ms(), 0);
  EXPECT_EQ(calls.to_text(), "");
}

TEST(KernelTimes, TextHasTheLongestFirstWithItsShare) {
  KernelTimes times;
  times.add("short", 10, 1);
  times.add("long", 2, 3);
  const std::string text = times.to_text();
  EXPECT_LT(text.find("long"), text.find("short"));
  EXPECT_NE(text.find("75.0 %"), std::string::npos);
  EXPECT_NE(text.find("1500.00 us each"), std::string::npos);
}

}  // namespace
}  // namespace ds4
