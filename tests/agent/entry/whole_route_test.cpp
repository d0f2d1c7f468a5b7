// Every token a client ever sees is the right one, whatever happens to stages, routes and clients.
#include "tests/agent/entry/random_world.h"

namespace ds4::agent::test {
namespace {

TEST(EntryAboveStages, WhateverHappensEveryTokenIsTheRightOneOnce) {
  std::size_t tokens = 0;
  std::map<ipc::Status, int> statuses;
  for (std::uint32_t seed = 0; seed < 30; ++seed) {
    World world(seed);
    for (int i = 0; i < 1000 && !::testing::Test::HasFailure(); ++i) world.act();
    world.come_to_rest();
    ASSERT_FALSE(::testing::Test::HasFailure()) << "seed " << seed;
    EXPECT_TRUE(world.open.empty()) << "seed " << seed << ": a request hangs";
    EXPECT_EQ(world.route.control->misplaced_rows, 0);
    EXPECT_EQ(world.entry.sessions(), world.kept.size());
    world.entry.shut_down();
    while (world.carry()) {
    }
    // A closing may be lost as well; then the stages forget the session when they need the memory.
    if (!world.may_lose_frames) {
      EXPECT_EQ(world.route.sessions(), 0U) << "seed " << seed << ": a stage keeps a lost session";
    }
    tokens += world.tokens;
    for (const auto& [status, count] : world.statuses) statuses[status] += count;
  }
  // The test would prove nothing if hardly anything came through, or nothing went wrong.
  EXPECT_GT(tokens, 10000U);
  EXPECT_GT(statuses[ipc::Status::kOkLength], 1500);
  for (const auto status :
       {ipc::Status::kOkStop, ipc::Status::kCancelled, ipc::Status::kBusy, ipc::Status::kPeerLost,
        ipc::Status::kOutOfRange, ipc::Status::kOkClosed, ipc::Status::kOkForked}) {
    EXPECT_GT(statuses[status], 20) << static_cast<int>(status);
  }
  EXPECT_LT(statuses[ipc::Status::kInternal], statuses[ipc::Status::kOkLength] / 20);
}

}  // namespace
}  // namespace ds4::agent::test
