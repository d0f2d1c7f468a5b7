#include "engine/base/checked.h"

#include <gtest/gtest.h>

#include <limits>

namespace ds4 {
namespace {

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

TEST(Checked, RefusesOverflow) {
  EXPECT_EQ(checked_add<std::uint64_t>(kMax, 1), std::nullopt);
  EXPECT_EQ(checked_add<std::uint64_t>(kMax - 1, 1), kMax);
  EXPECT_EQ(checked_mul<std::uint64_t>(kMax / 2 + 1, 2), std::nullopt);
  EXPECT_EQ(checked_mul<std::uint64_t>(kMax / 2, 2), kMax - 1);
}

TEST(Checked, FitsNearTheEndOfTheAddressSpace) {
  EXPECT_TRUE(fits(0, 0, 0));
  EXPECT_TRUE(fits(10, 0, 10));
  EXPECT_FALSE(fits(11, 0, 10));
  EXPECT_FALSE(fits(kMax, 2, kMax));
  EXPECT_TRUE(fits(kMax - 2, 2, kMax));
}

}  // namespace
}  // namespace ds4
