#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/agent/route/route_node.h"

namespace ds4::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// ---- two phases ------------------------------------------------------------------------------

TEST(RouteMachine, BeginsIdle) {
  Node node(0);
  EXPECT_THAT(node.machine.start({}, node.now), IsEmpty());
  EXPECT_EQ(node.machine.state(), NodeState::kIdle);
  EXPECT_THAT(node.machine.tick(node.now), IsEmpty());
}

TEST(RouteMachine, PrepareStartsTheLoad) {
  Node node(0);
  const auto actions = node.machine.prepare(node.assignment(4));
  ASSERT_TRUE(actions);
  ASSERT_TRUE(has<StartLoad>(*actions));
  EXPECT_EQ(node.machine.state(), NodeState::kLoading);
  EXPECT_EQ(node.machine.preparation()->phase, PreparePhase::kLoading);
  EXPECT_EQ(node.machine.ledger().highest_epoch, 4U);
  EXPECT_FALSE(node.machine.ledger().assignment);
}

TEST(RouteMachine, LoadedIsPreparedAndNotServing) {
  Node node(0);
  ASSERT_TRUE(node.machine.prepare(node.assignment(4)));
  EXPECT_THAT(node.machine.on_loaded(4, node.now), IsEmpty());
  EXPECT_EQ(node.machine.state(), NodeState::kPrepared);
  EXPECT_EQ(node.machine.committed(), nullptr);
}

TEST(RouteMachine, CommitJoinsStartsAndPings) {
  Node node(0);
  const Actions actions = node.serve(4);
  EXPECT_TRUE(has<JoinRoute>(actions));
  EXPECT_TRUE(has<StartStage>(actions));
  ASSERT_TRUE(has<SendPing>(actions));
  EXPECT_TRUE(all<SendPing>(actions)[0].frame.loaded);
  EXPECT_FALSE(all<SendPing>(actions)[0].frame.route_ready);
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
  EXPECT_EQ(node.machine.ledger().assignment, node.assignment(4));
  EXPECT_FALSE(node.machine.preparation());
}

TEST(RouteMachine, RepeatedRequestsChangeNothing) {
  Node node(0);
  ASSERT_TRUE(node.machine.prepare(node.assignment(4)));
  auto again = node.machine.prepare(node.assignment(4));
  ASSERT_TRUE(again);
  EXPECT_THAT(*again, IsEmpty());
  node.machine.on_loaded(4, node.now);
  ASSERT_TRUE(node.machine.commit(4, node.now));
  const std::uint64_t serial = node.machine.serial();
  again = node.machine.commit(4, node.now);
  ASSERT_TRUE(again);
  EXPECT_THAT(*again, IsEmpty());
  EXPECT_EQ(node.machine.serial(), serial);
}

TEST(RouteMachine, CommitWithoutPrepareIsAMismatch) {
  Node node(0);
  EXPECT_EQ(node.machine.commit(1, node.now).error().code, ErrorCode::kMismatch);
  ASSERT_TRUE(node.machine.prepare(node.assignment(2)));
  EXPECT_EQ(node.machine.commit(1, node.now).error().code, ErrorCode::kMismatch);
  EXPECT_THAT(node.machine.commit(2, node.now).error().message, HasSubstr("still loading"));
}

TEST(RouteMachine, EpochsOnlyGrow) {
  Node node(0);
  node.serve(4);
  for (const std::uint64_t epoch : {3U, 4U}) {
    const auto refused = node.machine.prepare(node.assignment(epoch));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::kMismatch);
    EXPECT_THAT(refused.error().message, HasSubstr("prepare epoch 5 or later"));
  }
}

TEST(RouteMachine, AnAbortedEpochIsNotUsedAgain) {
  Node node(0);
  ASSERT_TRUE(node.machine.prepare(node.assignment(4)));
  EXPECT_TRUE(has<ForgetSlice>(node.machine.abort(4)));
  EXPECT_EQ(node.machine.state(), NodeState::kIdle);
  EXPECT_FALSE(node.machine.prepare(node.assignment(4)));
  EXPECT_TRUE(node.machine.prepare(node.assignment(5)));
}

TEST(RouteMachine, TwoPreparationsAtOnceAreRefused) {
  Node node(0);
  ASSERT_TRUE(node.machine.prepare(node.assignment(4)));
  const auto refused = node.machine.prepare(node.assignment(5));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(node.machine.ledger().highest_epoch, 4U);
}

TEST(RouteMachine, AnAbortOfAnotherEpochChangesNothing) {
  Node node(0);
  EXPECT_THAT(node.machine.abort(9), IsEmpty());
  ASSERT_TRUE(node.machine.prepare(node.assignment(4)));
  EXPECT_THAT(node.machine.abort(9), IsEmpty());
  EXPECT_EQ(node.machine.state(), NodeState::kLoading);
}

TEST(RouteMachine, AFailedLoadIsReportedAndMayBeTriedAgain) {
  Node node(0);
  ASSERT_TRUE(node.machine.prepare(node.assignment(4)));
  node.machine.on_load_failed(4, Error{ErrorCode::kIo, "disk on fire"});
  EXPECT_EQ(node.machine.state(), NodeState::kIdle);
  ASSERT_TRUE(node.machine.preparation());
  EXPECT_EQ(node.machine.preparation()->phase, PreparePhase::kFailed);
  EXPECT_EQ(node.machine.preparation()->detail, "disk on fire");
  EXPECT_THAT(node.machine.commit(4, node.now).error().message, HasSubstr("disk on fire"));
  EXPECT_TRUE(node.machine.prepare(node.assignment(5)));
}

TEST(RouteMachine, ASliceNobodyWaitsForIsDropped) {
  Node node(0);
  ASSERT_TRUE(node.machine.prepare(node.assignment(4)));
  node.machine.abort(4);
  const Actions actions = node.machine.on_loaded(4, node.now);
  ASSERT_EQ(all<ForgetSlice>(actions).size(), 1U);
  EXPECT_EQ(all<ForgetSlice>(actions)[0].epoch, 4U);
}

// ---- a preparation beside a serving route ----------------------------------------------------

TEST(RouteMachine, ServesOnWhileAnotherEpochIsPrepared) {
  Node node = ready_first();
  ASSERT_TRUE(node.machine.prepare(node.assignment(2)));
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
  node.machine.on_loaded(2, node.now);
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
  EXPECT_EQ(node.machine.committed()->epoch, 1U);
  EXPECT_EQ(node.machine.preparation()->phase, PreparePhase::kPrepared);
}

TEST(RouteMachine, AFailedPreparationLeavesTheServingRoute) {
  Node node = ready_first();
  ASSERT_TRUE(node.machine.prepare(node.assignment(2)));
  node.machine.on_load_failed(2, Error{ErrorCode::kIo, "disk on fire"});
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
  node.machine.abort(2);
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
  EXPECT_EQ(node.machine.committed()->epoch, 1U);
}

TEST(RouteMachine, TheCommitTakesTheFormerRoutesPlace) {
  Node node = ready_first();
  ASSERT_TRUE(node.machine.prepare(node.assignment(2)));
  node.machine.on_loaded(2, node.now);
  const std::uint64_t serial = node.machine.serial();
  const auto actions = node.machine.commit(2, node.now);
  ASSERT_TRUE(actions);
  ASSERT_EQ(all<ForgetSlice>(*actions).size(), 1U);
  EXPECT_EQ(all<ForgetSlice>(*actions)[0].epoch, 1U);
  EXPECT_EQ(all<StartStage>(*actions)[0].epoch, 2U);
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
  EXPECT_NE(node.machine.serial(), serial);
}

TEST(RouteMachine, ReleaseGivesUpEverything) {
  Node node = ready_first();
  ASSERT_TRUE(node.machine.prepare(node.assignment(2)));
  const Actions actions = node.machine.release();
  EXPECT_EQ(all<ForgetSlice>(actions).size(), 2U);
  EXPECT_TRUE(has<LeaveRoute>(actions));
  EXPECT_EQ(node.machine.state(), NodeState::kIdle);
  EXPECT_FALSE(node.machine.ledger().assignment);
  EXPECT_EQ(node.machine.ledger().highest_epoch, 2U);
  EXPECT_THAT(node.machine.release(), IsEmpty());
  EXPECT_THAT(node.machine.tick(node.now + 1s), IsEmpty());
}

// ---- the canary ------------------------------------------------------------------------------

TEST(RouteMachine, TheCanaryWaitsForEveryStage) {
  Node node(0);
  EXPECT_FALSE(has<SendCanary>(node.serve(1)));
  EXPECT_FALSE(has<SendCanary>(node.hear(1)));
  EXPECT_FALSE(has<SendCanary>(node.hear(2, {.loaded = false})));
  EXPECT_THAT(node.machine.detail(),
              HasSubstr("node c (tcp://10.0.0.3:1) does not hold layers 4:output"));
  EXPECT_TRUE(has<SendCanary>(node.hear(2)));
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
}

TEST(RouteMachine, OneCanaryAtATime) {
  Node node(0);
  node.serve(1);
  node.hear(1);
  EXPECT_TRUE(has<SendCanary>(node.hear(2)));
  EXPECT_FALSE(has<SendCanary>(node.hear(1)));
  EXPECT_FALSE(has<SendCanary>(node.machine.tick(node.now + 200ms)));
}

TEST(RouteMachine, TheTokensReturnMakesTheRouteReadyAndTellsTheOthers) {
  Node node(0);
  node.serve(1);
  node.hear(1);
  const std::uint64_t session = all<SendCanary>(node.hear(2))[0].session;
  EXPECT_TRUE(node.machine.is_canary(session));
  const Actions actions = node.machine.on_canary_token(session, node.now);
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
  EXPECT_EQ(all<CloseCanary>(actions)[0].session, session);
  EXPECT_TRUE(all<SendPing>(actions)[0].frame.route_ready);
  EXPECT_FALSE(node.machine.is_canary(session));
}

TEST(RouteMachine, ATokenOfAnotherSessionIsNotTheCanarys) {
  Node node(0);
  node.serve(1);
  node.hear(1);
  const std::uint64_t session = all<SendCanary>(node.hear(2))[0].session;
  EXPECT_THAT(node.machine.on_canary_token(session + 1, node.now), IsEmpty());
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
}

TEST(RouteMachine, ASingleNodeSendsACanaryThroughItself) {
  Node node(0, {}, 1);
  const Actions actions = node.serve(1);
  ASSERT_TRUE(has<SendCanary>(actions));
  EXPECT_FALSE(has<SendPing>(actions));
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
  node.machine.on_canary_token(all<SendCanary>(actions)[0].session, node.now);
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
}

TEST(RouteMachine, AFailedCanaryIsSentAgainAfterAPauseAsAnotherSession) {
  Node node(0, {}, 1);
  const std::uint64_t first = all<SendCanary>(node.serve(1))[0].session;
  EXPECT_TRUE(has<CloseCanary>(node.machine.on_canary_error(first, "no memory", node.now)));
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
  EXPECT_EQ(node.machine.detail(), "the canary token failed: no memory");
  EXPECT_FALSE(has<SendCanary>(node.machine.tick(node.now + 999ms)));
  const Actions actions = node.machine.tick(node.now + 1s);
  ASSERT_TRUE(has<SendCanary>(actions));
  EXPECT_NE(all<SendCanary>(actions)[0].session, first);
}

TEST(RouteMachine, ALostCanaryIsGivenUpAndSentAgain) {
  Node node(0, {}, 1);
  const std::uint64_t first = all<SendCanary>(node.serve(1))[0].session;
  EXPECT_FALSE(has<SendCanary>(node.machine.tick(node.now + 29'999ms)));
  const Actions actions = node.machine.tick(node.now + 30s);
  EXPECT_EQ(all<CloseCanary>(actions)[0].session, first);
  EXPECT_TRUE(has<SendCanary>(actions));
  EXPECT_THAT(node.machine.detail(), HasSubstr("did not come back"));
  EXPECT_THAT(node.machine.on_canary_token(first, node.now), IsEmpty());  // too late
}

TEST(RouteMachine, OtherStagesAreReadyByTheFirstStagesWord) {
  Node node(1);
  EXPECT_FALSE(has<SendCanary>(node.serve(1)));
  node.hear(2, {.ready = true});  // not the first stage's word
  node.hear(0);
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
  node.hear(0, {.ready = true});
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
  node.hear(0, {.ready = false});
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
}

}  // namespace
}  // namespace ds4::agent
