#include "agent/route/route_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace ds4::agent {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using wire::NodeState;
using wire::PreparePhase;

constexpr std::uint64_t kInstance = 1000;

template <typename T>
std::vector<T> all(const Actions& actions) {
  std::vector<T> out;
  for (const Action& action : actions) {
    if (const auto* wanted = std::get_if<T>(&action)) out.push_back(*wanted);
  }
  return out;
}

template <typename T>
bool has(const Actions& actions) {
  return !all<T>(actions).empty();
}

/// A route of three nodes, a, b and c, as seen by one of them.
class Node {
 public:
  explicit Node(std::uint32_t index, Ledger ledger = {}, std::size_t stages = 3)
      : machine(RouteTiming{100ms, 2000ms, 60s, 30s, 1s}, kInstance, ledger),
        index_(index),
        stages_(stages) {
    instances[index] = kInstance;
  }

  Assignment assignment(std::uint64_t epoch) const {
    const std::vector<wire::StageSpec> three = {{"a", "tcp://10.0.0.1:1", "0:1"},
                                                {"b", "tcp://10.0.0.2:1", "2:3"},
                                                {"c", "tcp://10.0.0.3:1", "4:output"}};
    if (stages_ == 1) return {epoch, "f00d", {{"a", "tcp://10.0.0.1:1", "0:output"}}, 0};
    return {epoch, "f00d", three, index_};
  }

  /// Prepared, loaded, committed.
  Actions serve(std::uint64_t epoch) {
    EXPECT_TRUE(machine.prepare(assignment(epoch)));
    machine.on_loaded(epoch, now);
    auto actions = machine.commit(epoch, now);
    EXPECT_TRUE(actions);
    return actions ? *actions : Actions{};
  }

  struct Heard {
    bool loaded = true;
    bool hears_all = true;
    bool ready = false;  // of the processes that this node knows, unless `processes`
    std::uint64_t instance = 7;
    std::uint64_t epoch = 0;  // 0: the committed one
    std::uint64_t processes = 0;
  };
  Actions hear(std::uint32_t stage) { return hear(stage, {}); }
  Actions hear(std::uint32_t stage, const Heard& heard) {
    wire::PingFrame ping;
    ping.epoch = heard.epoch != 0 ? heard.epoch : machine.committed()->epoch;
    ping.stage = stage;
    ping.instance = heard.instance;
    ping.loaded = heard.loaded;
    ping.hears_all = heard.hears_all;
    ping.route_ready = heard.ready;
    if (stage < instances.size()) instances[stage] = heard.instance;
    ping.processes = heard.processes != 0 ? heard.processes : wire::digest_processes(instances);
    return machine.on_ping(ping, now);
  }

  /// Time passes while all the others go on pinging.
  void pass_with_pings(std::chrono::milliseconds time, bool ready = false) {
    for (auto spent = 0ms; spent < time; spent += 100ms) {
      now += 100ms;
      for (std::uint32_t stage = 0; stage < 3; ++stage) {
        if (stage != index_) hear(stage, {.ready = ready && stage == 0});
      }
      machine.tick(now);
    }
  }

  RouteMachine machine;
  TimePoint now{1'000'000ms};
  std::vector<std::uint64_t> instances = {7, 7, 7};

 private:
  std::uint32_t index_;
  std::size_t stages_;
};

/// The first stage, its route ready by a canary.
Node ready_first() {
  Node node(0);
  node.serve(1);
  node.hear(1);
  const Actions actions = node.hear(2);
  EXPECT_TRUE(has<SendCanary>(actions));
  node.machine.on_canary_token(all<SendCanary>(actions)[0].session, node.now);
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
  return node;
}

Node ready_second() {
  Node node(1);
  node.serve(1);
  node.hear(2);
  node.hear(0, {.ready = true});
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
  return node;
}

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

TEST(RouteMachine, AStageThatFallsSilentIsNoticedWithinTwoSecondsByDefault) {
  RouteMachine machine({}, kInstance, {});
  const Node node(0);
  TimePoint now = node.now;
  ASSERT_TRUE(machine.prepare(node.assignment(1)));
  machine.on_loaded(1, now);
  ASSERT_TRUE(machine.commit(1, now));
  const auto ping = [&](std::uint32_t stage) {
    return machine.on_ping(
        {.epoch = 1, .stage = stage, .instance = 7, .loaded = true, .hears_all = true}, now);
  };
  ping(1);
  const Actions actions = ping(2);
  ASSERT_TRUE(has<SendCanary>(actions));
  machine.on_canary_token(all<SendCanary>(actions)[0].session, now);
  ASSERT_EQ(machine.state(), NodeState::kReady);

  const TimePoint died = now;
  while (machine.state() == NodeState::kReady && now < died + 10s) {
    now += RouteTiming{}.ping;  // as often as the agent looks at the clock
    ping(1);
    machine.tick(now);
  }
  EXPECT_EQ(machine.state(), NodeState::kDegraded);
  EXPECT_LE(now - died, 1800ms);
}

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
