// The chaos at a size for every day. At its full size: clients_chaos --clients 256 --kills 200.
#include "tests/ipc/clients_chaos.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::test {
namespace {

TEST(ClientsChaos, KilledClientsLeaveNothingAndDisturbNobody) {
  const ChaosReport report =
      run_chaos({.clients = 24, .kills = 24, .rounds = 1, .agents = 2, .tokens = 16, .seed = 1});
  EXPECT_THAT(report.faults, ::testing::IsEmpty());
  EXPECT_EQ(report.kills, 24U);
  EXPECT_GT(report.kills_mid_stream, 0U);
  EXPECT_GE(report.streams, 24U);
}

}  // namespace
}  // namespace ds4::test
