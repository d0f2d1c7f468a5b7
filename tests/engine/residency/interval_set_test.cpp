// Interval arithmetic against a bitmap, page by page.
#include "engine/residency/interval_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitset>
#include <random>

namespace ds4 {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(IntervalSet, TheDifferenceKeepsBothSidesOfAHole) {
  const Intervals whole = {{0, 100}};
  EXPECT_THAT(difference(whole, Intervals{{20, 30}, {90, 200}}),
              ElementsAre(Interval{0, 20}, Interval{30, 90}));
  EXPECT_THAT(difference(whole, whole), IsEmpty());
  EXPECT_EQ(difference(whole, Intervals{}), whole);
  EXPECT_THAT(difference(Intervals{}, whole), IsEmpty());
}

TEST(IntervalSet, OneHoleCanCutSeveral) {
  EXPECT_THAT(difference(Intervals{{0, 10}, {20, 30}, {40, 50}}, Intervals{{5, 45}}),
              ElementsAre(Interval{0, 5}, Interval{45, 50}));
}

TEST(IntervalSet, TheUnionMergesWhatTouches) {
  EXPECT_THAT(united(Intervals{{0, 10}, {30, 40}}, Intervals{{10, 20}, {35, 50}}),
              ElementsAre(Interval{0, 20}, Interval{30, 50}));
}

constexpr std::size_t kPages = 96;
using Bits = std::bitset<kPages>;

Intervals intervals_of(const Bits& bits, std::uint64_t origin, std::uint64_t page) {
  Intervals out;
  for (std::size_t i = 0; i < kPages; ++i) {
    if (!bits[i]) continue;
    const std::uint64_t begin = origin + i * page;
    if (!out.empty() && out.back().end == begin) {
      out.back().end += page;
    } else {
      out.push_back({begin, begin + page});
    }
  }
  return out;
}

TEST(IntervalSetProperty, EqualsTheBitmap) {
  std::mt19937_64 random(7);
  for (const std::uint64_t page : {4096ull, 16384ull, 65536ull}) {
    for (const std::uint64_t origin : {std::uint64_t{0}, 0 - (kPages + 1) * page}) {
      for (int round = 0; round < 2000; ++round) {
        Bits a, b;
        for (std::size_t i = 0; i < kPages; ++i) {
          a[i] = random() % 3 != 0;
          b[i] = random() % 3 == 0;
        }
        if (round % 7 == 0) a.reset();
        if (round % 11 == 0) b.reset();
        const Intervals x = intervals_of(a, origin, page);
        const Intervals y = intervals_of(b, origin, page);
        ASSERT_EQ(difference(x, y), intervals_of(a & ~b, origin, page));
        ASSERT_EQ(intersection(x, y), intervals_of(a & b, origin, page));
        ASSERT_EQ(united(x, y), intervals_of(a | b, origin, page));
        ASSERT_EQ(total_bytes(x), a.count() * page);
      }
    }
  }
}

}  // namespace
}  // namespace ds4
