#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>

#include "tests/agent/route/route_node.h"

namespace ds4::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// ---- stages that fall silent, come back, or are replaced -------------------------------------

TEST(RouteMachine, PingsAtItsInterval) {
  Node node = ready_first();
  EXPECT_FALSE(has<SendPing>(node.machine.tick(node.now + 99ms)));
  EXPECT_TRUE(has<SendPing>(node.machine.tick(node.now + 100ms)));
}

TEST(RouteMachine, ASilentStageDegradesTheRouteAndIsNamed) {
  Node node = ready_first();
  node.now += 1500ms;
  node.hear(1);
  node.now += 501ms;
  const Actions actions = node.machine.tick(node.now);
  EXPECT_EQ(node.machine.state(), NodeState::kDegraded);
  EXPECT_EQ(node.machine.detail(), "no word from node c (tcp://10.0.0.3:1) for 2000 ms");
  ASSERT_TRUE(has<SendPing>(actions));
  EXPECT_FALSE(all<SendPing>(actions)[0].frame.route_ready);
}

TEST(RouteMachine, AReturningStageIsReadyOnlyAfterAnotherCanary) {
  Node node = ready_first();
  node.now += 2001ms;
  node.hear(1);
  node.machine.tick(node.now);
  ASSERT_EQ(node.machine.state(), NodeState::kDegraded);
  const Actions actions = node.hear(2);
  ASSERT_TRUE(has<SendCanary>(actions));
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
  node.machine.on_canary_token(all<SendCanary>(actions)[0].session, node.now);
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
}

TEST(RouteMachine, EveryStageNoticesASilentOne) {
  Node node = ready_second();
  node.now += 2001ms;
  node.hear(0, {.ready = true});
  node.machine.tick(node.now);
  EXPECT_EQ(node.machine.state(), NodeState::kDegraded);
  EXPECT_THAT(node.machine.detail(), HasSubstr("node c"));
}

TEST(RouteMachine, AStageNeverHeardOfDegradesAfterTheTimeoutOnly) {
  Node node(0);
  node.serve(1);
  node.machine.tick(node.now + 2000ms);
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
  node.machine.tick(node.now + 2001ms);
  EXPECT_EQ(node.machine.state(), NodeState::kDegraded);
}

TEST(RouteMachine, AFastRestartIsNoticedByTheProcessNumber) {
  Node node = ready_first();
  const Actions actions = node.hear(1, {.instance = 8});
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
  EXPECT_TRUE(has<SendCanary>(actions));
  ASSERT_TRUE(has<CloseSessionsOf>(actions));
  EXPECT_EQ(all<CloseSessionsOf>(actions)[0].entry, 1U);
  EXPECT_FALSE(has<CloseSessionsOf>(node.hear(1, {.instance = 8})));
}

TEST(RouteMachine, TheFirstStagesWordHoldsForTheProcessesItNames) {
  Node node = ready_second();
  const std::uint64_t before = wire::digest_processes(node.instances);
  EXPECT_TRUE(has<CloseSessionsOf>(node.hear(2, {.instance = 8})));
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
  node.hear(0, {.ready = true, .processes = before});  // it has not noticed yet
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
  node.hear(0, {.ready = true});
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
}

TEST(RouteMachine, ARestartedStageIsNotReadyByAWordAboutItsFormerSelf) {
  Node node(1, {1, Node(1).assignment(1)});
  node.machine.start({}, node.now);
  node.machine.on_loaded(1, node.now);
  node.hear(2);
  const std::vector<std::uint64_t> former = {7, kInstance - 1, 7};
  node.hear(0, {.ready = true, .processes = wire::digest_processes(former)});
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
  node.hear(0, {.ready = true});
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
}

TEST(RouteMachine, AStageThatLoadsAgainTakesTheRouteOutOfReady) {
  Node node = ready_first();
  const Actions actions = node.hear(1, {.loaded = false, .instance = 8});
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
  ASSERT_TRUE(has<SendPing>(actions) ||
              !all<SendPing>(node.machine.tick(node.now + 100ms)).empty());
  EXPECT_THAT(node.machine.detail(), HasSubstr("node b"));
}

TEST(RouteMachine, PingsOfAnotherEpochOrStageAreIgnored) {
  Node node = ready_second();
  node.hear(0, {.epoch = 99});      // another epoch
  node.hear(3, {.loaded = false});  // no such stage
  node.hear(1, {.loaded = false});  // itself
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
  node.now += 2001ms;
  node.hear(2);
  node.hear(0, {.ready = true, .epoch = 99});
  node.machine.tick(node.now);
  EXPECT_EQ(node.machine.state(), NodeState::kDegraded);
}

TEST(RouteMachine, AnUnreachableStageDegradesForAsLongAsTheTimeout) {
  Node node = ready_second();
  node.machine.on_unreachable(2, node.now);
  EXPECT_EQ(node.machine.state(), NodeState::kDegraded);
  EXPECT_EQ(node.machine.detail(), "node c (tcp://10.0.0.3:1) does not take frames");
  node.pass_with_pings(1900ms, true);
  EXPECT_EQ(node.machine.state(), NodeState::kDegraded);
  node.pass_with_pings(200ms, true);
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
}

TEST(RouteMachine, AReadyRouteStaysReadyWhileEverybodyPings) {
  Node first = ready_first();
  first.pass_with_pings(10'000ms);
  EXPECT_EQ(first.machine.state(), NodeState::kReady);
  Node second = ready_second();
  second.pass_with_pings(10'000ms, true);
  EXPECT_EQ(second.machine.state(), NodeState::kReady);
}

// ---- restart ---------------------------------------------------------------------------------

TEST(RouteMachine, ARestoredAssignmentLoadsJoinsAndIsProvenAgain) {
  Node node(0, {3, Node(0).assignment(3)});
  const Actions started = node.machine.start({}, node.now);
  EXPECT_TRUE(has<JoinRoute>(started));
  EXPECT_TRUE(has<StartLoad>(started));
  EXPECT_EQ(node.machine.state(), NodeState::kLoading);
  const Actions ticked = node.machine.tick(node.now);
  ASSERT_TRUE(has<SendPing>(ticked));
  EXPECT_FALSE(all<SendPing>(ticked)[0].frame.loaded);
  node.hear(1);
  node.hear(2);
  const Actions loaded = node.machine.on_loaded(3, node.now);
  EXPECT_TRUE(has<StartStage>(loaded));
  ASSERT_TRUE(has<SendCanary>(loaded));
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
}

TEST(RouteMachine, ARestoredAssignmentThatDoesNotFitIsKeptAsFailed) {
  Node node(0, {3, Node(0).assignment(3)});
  const Actions actions =
      node.machine.start(fail(ErrorCode::kMismatch, "another model file"), node.now);
  EXPECT_FALSE(has<StartLoad>(actions));
  EXPECT_EQ(node.machine.state(), NodeState::kFailed);
  EXPECT_EQ(node.machine.detail(), "restore epoch 3: another model file");
  EXPECT_TRUE(node.machine.ledger().assignment);
  EXPECT_THAT(node.machine.tick(node.now), IsEmpty());
  node.serve(4);  // a new assignment is the way out
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
}

TEST(RouteMachine, ARestoredLoadThatFailsIsAFailedNode) {
  Node node(1, {3, Node(1).assignment(3)});
  node.machine.start({}, node.now);
  node.machine.on_load_failed(3, Error{ErrorCode::kIo, "disk on fire"});
  EXPECT_EQ(node.machine.state(), NodeState::kFailed);
  EXPECT_EQ(node.machine.detail(), "disk on fire");
}

TEST(RouteMachine, ALostSliceFailsTheNodeAndTellsTheOthers) {
  Node node = ready_first();
  const Actions actions = node.machine.on_slice_lost(1, "no thread", node.now);
  EXPECT_TRUE(has<ForgetSlice>(actions));
  EXPECT_EQ(node.machine.state(), NodeState::kFailed);
  ASSERT_TRUE(has<SendPing>(actions));
  EXPECT_FALSE(all<SendPing>(actions).back().frame.loaded);
  EXPECT_FALSE(all<SendPing>(actions).back().frame.route_ready);
}

TEST(RouteMachine, TheHighestEpochSurvivesARestart) {
  Node node(0, {9, std::nullopt});
  EXPECT_FALSE(node.machine.prepare(node.assignment(9)));
  EXPECT_TRUE(node.machine.prepare(node.assignment(10)));
}

TEST(RouteMachine, AStoppingNodeSaysSo) {
  Node node = ready_first();
  const Actions actions = node.machine.stop();
  EXPECT_EQ(node.machine.state(), NodeState::kStopping);
  ASSERT_TRUE(has<SendPing>(actions));
  EXPECT_FALSE(all<SendPing>(actions)[0].frame.loaded);
}

// ---- who is away, and for how long -----------------------------------------------------------

/// The stage that looks, and the one that falls silent.
class SilentStage : public ::testing::TestWithParam<std::tuple<std::uint32_t, std::uint32_t>> {};

TEST_P(SilentStage, IsNoticedWithinTwoSecondsByDefault) {
  const auto [self, silent] = GetParam();
  RouteMachine machine({}, kInstance, {});
  const Node node(self);
  TimePoint now = node.now;
  ASSERT_TRUE(machine.prepare(node.assignment(1)));
  machine.on_loaded(1, now);
  ASSERT_TRUE(machine.commit(1, now));
  const auto ping = [&](std::uint32_t stage) {
    wire::PingFrame frame{.epoch = 1, .stage = stage, .instance = 7, .loaded = true};
    frame.hears_all = true;
    frame.route_ready = stage == 0;  // believed by the others, not by stage 0 itself
    frame.processes = wire::digest_processes(node.instances);
    for (const SendCanary& canary : all<SendCanary>(machine.on_ping(frame, now))) {
      machine.on_canary_token(canary.session, now);
    }
  };
  const auto others_ping = [&](std::uint32_t but) {
    for (std::uint32_t stage = 0; stage < 3; ++stage) {
      if (stage != self && stage != but) ping(stage);
    }
  };
  others_ping(self);
  ASSERT_EQ(machine.state(), NodeState::kReady);

  const TimePoint died = now;
  while (machine.state() == NodeState::kReady && now < died + 10s) {
    now += RouteTiming{}.ping;  // as often as the agent looks at the clock
    others_ping(silent);
    machine.tick(now);
  }
  EXPECT_EQ(machine.state(), NodeState::kDegraded);
  EXPECT_LE(now - died, 1800ms);
}

INSTANTIATE_TEST_SUITE_P(Everywhere, SilentStage,
                         ::testing::Values(std::tuple(0, 1), std::tuple(0, 2), std::tuple(1, 0),
                                           std::tuple(1, 2), std::tuple(2, 0), std::tuple(2, 1)));

TEST(RouteMachine, AStageThatMissesAnotherTakesTheRouteOutOfReady) {
  Node node = ready_first();
  node.now += 100ms;
  node.hear(1, {.hears_all = false});
  EXPECT_EQ(node.machine.state(), NodeState::kJoining);
  EXPECT_THAT(node.machine.detail(), HasSubstr("node b (tcp://10.0.0.2:1) has no word from"));
  EXPECT_FALSE(has<SendCanary>(node.hear(2)));
  EXPECT_TRUE(has<SendCanary>(node.hear(1)));  // it hears all again
}

TEST(RouteMachine, ANodeTellsWhetherItHearsAllOthers) {
  Node node = ready_second();
  const auto said = [&] {
    node.now += 100ms;
    return all<SendPing>(node.machine.tick(node.now)).at(0).frame.hears_all;
  };
  EXPECT_TRUE(said());
  node.now += 1900ms;
  node.hear(0, {.ready = true});
  node.now += 200ms;  // 2 is silent for longer than the timeout now, 0 is not
  EXPECT_FALSE(said());
  node.hear(2);
  EXPECT_TRUE(said());
}

TEST(RouteMachine, TheSessionsOfAStageThatStaysAwayAreClosedOnce) {
  Node node = ready_first();
  std::vector<std::uint32_t> closed;
  const auto pass = [&](std::chrono::milliseconds time) {
    for (auto spent = 0ms; spent < time; spent += 100ms) {
      node.now += 100ms;
      for (const Actions& actions : {node.hear(1), node.machine.tick(node.now)}) {
        for (const auto& action : all<CloseSessionsOf>(actions)) closed.push_back(action.entry);
      }
    }
  };
  pass(59s);
  EXPECT_THAT(closed, IsEmpty());
  pass(60s);
  EXPECT_THAT(closed, ::testing::ElementsAre(2U));
  node.hear(2);  // it was only cut off
  pass(70s);
  EXPECT_THAT(closed, ::testing::ElementsAre(2U, 2U));
}

}  // namespace

}  // namespace ds4::agent
