#include "agent/ds4d/foreign_sessions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(ForeignSessions, AreTakenByTheirEntryInTheOrderInWhichTheyCame) {
  ForeignSessions open;
  for (const std::uint64_t session : {9, 3, 7, 3, 9}) EXPECT_FALSE(open.note(session, 1));
  EXPECT_FALSE(open.note(5, 2));
  open.forget(3);
  open.forget(1000);
  EXPECT_THAT(open.take(1), ElementsAre(9, 7));
  EXPECT_THAT(open.take(1), IsEmpty());
  EXPECT_EQ(open.size(), 1U);
  EXPECT_THAT(open.take(2), ElementsAre(5));
}

TEST(ForeignSessions, OneThatAnotherEntryNamesIsItsFromThenOn) {
  ForeignSessions open;
  EXPECT_FALSE(open.note(9, 1));
  EXPECT_FALSE(open.note(9, 2));
  EXPECT_THAT(open.take(1), IsEmpty());
  EXPECT_THAT(open.take(2), ElementsAre(9));
}

TEST(ForeignSessions, BeyondTheBoundTheOldestOfThatEntryIsClosed) {
  ForeignSessions open;
  EXPECT_FALSE(open.note(1, 2));  // another entry's, older than all
  for (std::uint64_t i = 0; i < kMostForeignSessions; ++i) EXPECT_FALSE(open.note(100 + i, 1));
  EXPECT_EQ(open.note(50, 1), 100U);
  EXPECT_FALSE(open.note(101, 1)) << "it is open";
  EXPECT_EQ(open.note(51, 1), 101U);
  open.forget(102);
  EXPECT_FALSE(open.note(52, 1)) << "one was closed";
  EXPECT_EQ(open.size(), kMostForeignSessions + 1);
  EXPECT_EQ(open.take(1).size(), kMostForeignSessions);
}

TEST(ForeignSessions, ClearedTheyAreNobodysAnyMore) {
  ForeignSessions open;
  EXPECT_FALSE(open.note(9, 1));
  open.clear();
  EXPECT_THAT(open.take(1), IsEmpty());
  EXPECT_EQ(open.size(), 0U);
}

}  // namespace
}  // namespace ds4::agent
