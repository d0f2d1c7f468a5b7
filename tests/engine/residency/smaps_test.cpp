// Text of /proc -> numbers, and the account of a reservation.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/residency/residency_audit.h"

namespace ds4 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Shortened, otherwise as a kernel 6 prints it.
constexpr std::string_view kSmaps =
    "7f0000000000-7f0000002000 ---p 00000000 00:00 0 \n"
    "Size:                  8 kB\n"
    "Rss:                   0 kB\n"
    "Locked:                0 kB\n"
    "VmFlags: mr mw me nr sd \n"
    "7f0000002000-7f0000004000 r--s 00002000 fd:01 1234                       /models/a b.gguf\n"
    "Size:                  8 kB\n"
    "Rss:                   4 kB\n"
    "Pss:                   2 kB\n"
    "Locked:                2 kB\n"
    "THPeligible:           0\n"
    "VmFlags: rd sh mr mw me ms lo sd \n"
    "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]\n"
    "Rss:                  16 kB\n"
    "VmFlags: rd wr lop xlo\n";

TEST(Smaps, ReadsMappingsAndSkipsUnknownFields) {
  const auto entries = parse_smaps(kSmaps);
  ASSERT_TRUE(entries) << entries.error().message;
  EXPECT_THAT(*entries,
              ElementsAre(SmapsEntry{0x7f0000000000, 0x7f0000002000, 0, 0, 0, false},
                          SmapsEntry{0x7f0000002000, 0x7f0000004000, 0x2000, 1234, 4096, true},
                          SmapsEntry{0x7ffd00000000, 0x7ffd00021000, 0, 0, 16384, false}));
}

TEST(Smaps, TakesTheLastLineWithoutItsEnd) {
  const auto entries = parse_smaps("1000-2000 r--s 00000000 08:01 5 /f\nRss: 4 kB");
  ASSERT_TRUE(entries);
  EXPECT_THAT(*entries, ElementsAre(SmapsEntry{0x1000, 0x2000, 0, 5, 4096, false}));
}

TEST(Smaps, OfNothingIsNothing) {
  EXPECT_THAT(parse_smaps("").value(), IsEmpty());
}

TEST(Smaps, RefusesWhatIsNotSmaps) {
  for (const std::string_view text :
       {"hello", "Rss: 4 kB\n", "1000 r--s 0 08:01 5 /f\n", "2000-1000 r--s 0 08:01 5\n",
        "1000-2000 r--s\n", "1000-2000 r--s 0 08:01 x\n", "g000-2000 r--s 0 08:01 5\n",
        "1000-2000 r--s 0 08:01 5\nRss: many kB\n", "1000-2000 r--s 0 08:01 5\nRss: 4 MB\n",
        "1000-2000 r--s 0 08:01 5\nRss: 18446744073709551615 kB\n"}) {
    const auto entries = parse_smaps(text);
    ASSERT_FALSE(entries) << text;
    EXPECT_THAT(entries.error().message, HasSubstr("smaps")) << text;
  }
}

class Account : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kBase = 0x7f0000000000;
  static constexpr std::uint64_t kPage = 4096;
  static constexpr std::uint64_t kFile = 10 * kPage - 96;  // ends inside a page
  static constexpr std::uint64_t kReserved = 10 * kPage;

  static SmapsEntry entry(std::uint64_t first_page, std::uint64_t pages, std::uint64_t rss_pages,
                          bool locked) {
    const std::uint64_t begin = kBase + first_page * kPage;
    return {begin, begin + pages * kPage, first_page * kPage, 1234, rss_pages * kPage, locked};
  }
  static SpanCover cover(std::vector<Span> spans) {
    return SpanCover::from_spans(spans, kFile, kPage).value();
  }
  static Residency account(const std::vector<SmapsEntry>& smaps, const SpanCover& cover) {
    return ds4::account(smaps, kBase, kReserved, cover, cover.intervals());
  }
};

TEST_F(Account, EqualsTheCoverWhenEverythingIsThere) {
  const SpanCover two = cover({{0, 2 * kPage}, {9 * kPage, 100}});
  const Residency out = account({entry(0, 2, 2, true), entry(9, 1, 1, true)}, two);
  EXPECT_EQ(out.mapped_bytes, two.cover_bytes());
  EXPECT_EQ(out.incore_bytes, two.cover_bytes());
  EXPECT_EQ(out.locked_bytes, two.cover_bytes());
  EXPECT_EQ(out.outside_cover_bytes, 0u);
}

TEST_F(Account, CountsOnlyWhatIsPresentAndLocked) {
  const SpanCover one = cover({{0, 4 * kPage}});
  const Residency out = account({entry(0, 2, 1, true), entry(2, 2, 2, false)}, one);
  EXPECT_EQ(out.mapped_bytes, 4 * kPage);
  EXPECT_EQ(out.incore_bytes, 3 * kPage);
  EXPECT_EQ(out.locked_bytes, 1 * kPage);
}

TEST_F(Account, FindsWhatIsMappedOutsideTheCover) {
  const SpanCover one = cover({{2 * kPage, kPage}});
  EXPECT_EQ(account({entry(1, 4, 0, false)}, one).outside_cover_bytes, 3 * kPage);
  EXPECT_EQ(account({entry(9, 1, 0, false)}, one).outside_cover_bytes, kPage - 96);
}

TEST_F(Account, FindsAMappingThatStandsAtTheWrongPlace) {
  SmapsEntry misplaced = entry(2, 1, 1, false);
  misplaced.file_offset = 5 * kPage;
  EXPECT_EQ(account({misplaced}, cover({{2 * kPage, kPage}})).outside_cover_bytes, kPage);
}

TEST_F(Account, TellsAnotherSlicesBytesFromStrayOnes) {
  const SpanCover one = cover({{2 * kPage, kPage}});
  const std::vector<Interval> claimed = {{kPage, 4 * kPage}};
  const Residency out = ds4::account({entry(1, 4, 4, true)}, kBase, kReserved, one, claimed);
  EXPECT_EQ(out.outside_cover_bytes, kPage);
  EXPECT_EQ(out.mapped_bytes, kPage);
  EXPECT_EQ(out.locked_bytes, kPage);
}

TEST_F(Account, GivesEachIntervalItsOwn) {
  const SpanCover two = cover({{0, 2 * kPage}, {5 * kPage, 3 * kPage}});
  const Residency out = account({entry(0, 2, 2, true), entry(5, 3, 1, false)}, two);
  ASSERT_EQ(out.intervals.size(), 2u);
  EXPECT_EQ(out.intervals[0].planned, (Interval{0, 2 * kPage}));
  EXPECT_EQ(out.intervals[0].locked_bytes, 2 * kPage);
  EXPECT_EQ(out.intervals[1].mapped_bytes, 3 * kPage);
  EXPECT_EQ(out.intervals[1].incore_bytes, kPage);
  EXPECT_EQ(out.intervals[1].locked_bytes, 0u);
}

TEST_F(Account, IgnoresOtherMappings) {
  SmapsEntry before = entry(0, 1, 1, true), behind = entry(10, 1, 1, true);
  before.begin = kBase - 2 * kPage;
  before.end = kBase - kPage;
  SmapsEntry reserved = entry(3, 2, 0, false);
  reserved.inode = 0;
  const Residency out = account({before, reserved, behind}, cover({{0, kPage}}));
  EXPECT_EQ(out.mapped_bytes + out.incore_bytes + out.locked_bytes + out.outside_cover_bytes, 0u);
}

TEST(ProcStatus, FindsAField) {
  constexpr std::string_view kStatus =
      "Name:\tVmHWM: 1 kB\nVmPeak:\t  100 kB\nVmHWM:\t   42 kB\nVmRSS:\t x kB\nThreads:\t1\n";
  EXPECT_EQ(parse_status_bytes(kStatus, "VmHWM"), 42u * 1024);
  EXPECT_EQ(parse_status_bytes(kStatus, "VmPeak"), 100u * 1024);
  EXPECT_EQ(parse_status_bytes(kStatus, "VmHW"), std::nullopt);
  EXPECT_EQ(parse_status_bytes(kStatus, "VmRSS"), std::nullopt);
  EXPECT_EQ(parse_status_bytes(kStatus, "Threads"), std::nullopt);
}

}  // namespace
}  // namespace ds4
