#include "agent/ds4d/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::agent {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;
using wire::NodeState;

const std::chrono::steady_clock::time_point kStart{1'000s};

Health in(NodeState state, std::string detail = "") {
  Health health;
  health.state = state;
  health.detail = std::move(detail);
  return health;
}

TEST(ServiceReporter, IsReadyOnceAndOnlyWhenTheRouteIs) {
  ServiceReporter reporter(0us, 1min);
  for (const auto state : {NodeState::kLoading, NodeState::kPrepared, NodeState::kJoining,
                           NodeState::kDegraded, NodeState::kFailed}) {
    EXPECT_THAT(reporter.next(in(state), kStart), Not(HasSubstr("READY=1")));
  }
  EXPECT_THAT(reporter.next(in(NodeState::kReady), kStart), HasSubstr("READY=1\n"));
  EXPECT_THAT(reporter.next(in(NodeState::kDegraded), kStart), Not(HasSubstr("READY=1")));
  EXPECT_THAT(reporter.next(in(NodeState::kReady), kStart), Not(HasSubstr("READY=1")));
}

TEST(ServiceReporter, AnUnassignedNodeIsReady) {
  ServiceReporter reporter(0us, 1min);
  EXPECT_THAT(reporter.next(in(NodeState::kIdle), kStart), HasSubstr("READY=1\n"));
}

TEST(ServiceReporter, TellsAStatusOnlyWhenItChanges) {
  ServiceReporter reporter(0us, 1min);
  EXPECT_THAT(reporter.next(in(NodeState::kReady), kStart), HasSubstr("STATUS=ready\n"));
  EXPECT_EQ(reporter.next(in(NodeState::kReady), kStart), "");
  EXPECT_EQ(reporter.next(in(NodeState::kDegraded, "no word from b"), kStart),
            "STATUS=degraded: no word from b\n");
}

TEST(ServiceReporter, ShowsHowFarTheLoadIs) {
  ServiceReporter reporter(0us, 1min);
  Health health = in(NodeState::kLoading, "loading layers 3:output");
  health.load = {50, 200};
  EXPECT_THAT(reporter.next(health, kStart), HasSubstr("STATUS=loading layers 3:output: 25 %\n"));
  health.load = {51, 200};
  EXPECT_EQ(reporter.next(health, kStart), "");
}

TEST(ServiceReporter, AsksForPatienceWhileItStarts) {
  ServiceReporter reporter(0us, 1min);
  EXPECT_THAT(reporter.next(in(NodeState::kLoading), kStart), HasSubstr("EXTEND_TIMEOUT_USEC"));
  EXPECT_EQ(reporter.next(in(NodeState::kLoading), kStart + 9s), "");
  EXPECT_EQ(reporter.next(in(NodeState::kLoading), kStart + 10s), "EXTEND_TIMEOUT_USEC=30000000\n");
}

TEST(ServiceReporter, AsksForNoPatienceWhenItHasFailedOrIsReady) {
  ServiceReporter reporter(0us, 1min);
  EXPECT_THAT(reporter.next(in(NodeState::kFailed), kStart), Not(HasSubstr("EXTEND")));
  EXPECT_THAT(reporter.next(in(NodeState::kReady), kStart), Not(HasSubstr("EXTEND")));
  EXPECT_THAT(reporter.next(in(NodeState::kDegraded), kStart + 1min), Not(HasSubstr("EXTEND")));
}

TEST(ServiceReporter, FeedsTheWatchdogThreeTimesInItsInterval) {
  ServiceReporter reporter(30s, 1min);
  EXPECT_THAT(reporter.next(in(NodeState::kReady), kStart), HasSubstr("WATCHDOG=1\n"));
  EXPECT_EQ(reporter.next(in(NodeState::kReady), kStart + 9s), "");
  EXPECT_EQ(reporter.next(in(NodeState::kReady), kStart + 10s), "WATCHDOG=1\n");
}

TEST(ServiceReporter, AStuckEngineStarvesTheWatchdog) {
  ServiceReporter reporter(30s, 1min);
  Health health = in(NodeState::kReady);
  health.busy_since = kStart;
  EXPECT_THAT(reporter.next(health, kStart + 60s), HasSubstr("WATCHDOG=1"));
  EXPECT_EQ(reporter.next(health, kStart + 75s), "");
  health.busy_since = kStart + 75s;  // it went on
  EXPECT_THAT(reporter.next(health, kStart + 76s), HasSubstr("WATCHDOG=1"));
}

TEST(ServiceReporter, WithoutAWatchdogNothingIsFed) {
  ServiceReporter reporter(0us, 1min);
  EXPECT_THAT(reporter.next(in(NodeState::kReady), kStart), Not(HasSubstr("WATCHDOG")));
}

TEST(ServiceReporter, SaysOnceThatItStops) {
  ServiceReporter reporter(0us, 1min);
  EXPECT_THAT(reporter.next(in(NodeState::kStopping), kStart), HasSubstr("STOPPING=1\n"));
  EXPECT_EQ(reporter.next(in(NodeState::kStopping), kStart), "");
}

}  // namespace
}  // namespace ds4::agent
