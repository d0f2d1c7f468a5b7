#include "ctl/ds4ctl/assign_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/ctl/fake_agents.h"

namespace ds4::ctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class AssignMachineTest : public ::testing::Test {
 protected:
  AssignMachine machine() {
    std::vector<wire::NodeStatus> statuses;
    for (const FakeAgent& agent : fake.agents) statuses.push_back(agent.status);
    auto plan =
        plan_assignment(testing_nodes::wishes({"alpha=0:2", "beta=3:output"}), statuses).value();
    return AssignMachine(std::move(plan));
  }
  /// Ends in failure, having told every agent that is up to abort.
  Error failure_of(AssignMachine& m) {
    EXPECT_TRUE(m.done());
    if (!m.done() || m.outcome()) {
      ADD_FAILURE() << "the assignment did not fail";
      return {};
    }
    for (std::size_t i = 0; i < fake.agents.size(); ++i) {
      EXPECT_TRUE(fake.agents[i].down || fake.heard(i, "abort") > 0) << i;
    }
    return m.outcome().error();
  }

  FakeAgents fake{{"alpha", "beta"}};
  FakeAgent& alpha() { return fake.agents[0]; }
  FakeAgent& beta() { return fake.agents[1]; }
};

TEST_F(AssignMachineTest, CommitsOnlyWhenAllHavePreparedAndEndsWhenAllAreReady) {
  beta().load_steps = 20;
  AssignMachine m = machine();
  fake.run(m, [&](int) {
    EXPECT_TRUE(fake.heard(0, "commit") == 0 || beta().status.load.bytes_done >= 20);
  });
  ASSERT_TRUE(m.done());
  EXPECT_TRUE(m.outcome().has_value()) << m.outcome().error().message;
  for (const FakeAgent& agent : fake.agents) {
    EXPECT_EQ(agent.status.state, wire::NodeState::kReady);
    EXPECT_EQ(agent.status.epoch, 1u);
  }
  EXPECT_EQ(fake.heard(0, "prepare"), 1u);
  EXPECT_EQ(fake.heard(0, "commit"), 1u);
  EXPECT_EQ(fake.heard(0, "abort"), 0u);
  EXPECT_EQ(m.progress()[1].doing, "ready");
}

TEST_F(AssignMachineTest, ClearsWhatAnEarlierCoordinatorLeftPrepared) {
  beta().status.preparation = wire::Preparation{5, wire::PreparePhase::kPrepared, "3:output", ""};
  AssignMachine m = machine();
  fake.run(m);
  ASSERT_TRUE(m.done());
  EXPECT_TRUE(m.outcome().has_value()) << m.outcome().error().message;
  EXPECT_EQ(beta().heard.front(), "abort");
  EXPECT_EQ(fake.heard(0, "abort"), 0u);
  EXPECT_EQ(beta().status.epoch, 6u);
}

TEST_F(AssignMachineTest, ARefusedPrepareAbortsEverywhereAndIsQuoted) {
  beta().refuse_prepare =
      Error{ErrorCode::kResourceExhausted, "3:output needs 80 GiB, 60 are left"};
  AssignMachine m = machine();
  fake.run(m);
  const Error error = failure_of(m);
  EXPECT_EQ(error.code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(error.message, AllOf(HasSubstr("node beta (tcp://10.0.0.2:7341) refused to prepare"),
                                   HasSubstr("needs 80 GiB"), HasSubstr("serves on")));
  EXPECT_EQ(fake.heard(0, "commit") + fake.heard(1, "commit"), 0u);
  EXPECT_FALSE(alpha().status.preparation.has_value());
}

TEST_F(AssignMachineTest, AFailedLoadAbortsEverywhere) {
  beta().fail_load = "disk error";
  AssignMachine m = machine();
  fake.run(m);
  EXPECT_THAT(failure_of(m).message, AllOf(HasSubstr("beta"), HasSubstr("disk error")));
  EXPECT_EQ(fake.heard(0, "commit"), 0u);
}

TEST_F(AssignMachineTest, ANodeThatGoesDownWhileLoadingAbortsTheOthersAndIsNamedAsUntold) {
  beta().load_hangs = true;
  AssignMachine m = machine();
  fake.run(m, [&](int step) { beta().down = step >= 10; });
  const Error error = failure_of(m);
  EXPECT_EQ(error.code, ErrorCode::kTimeout);
  EXPECT_THAT(error.message,
              AllOf(HasSubstr("beta (tcp://10.0.0.2:7341) has not answered"),
                    HasSubstr("beta (tcp://10.0.0.2:7341) could not be told to abort")));
}

TEST_F(AssignMachineTest, ANodeThatIsDownFromTheStartTimesOut) {
  alpha().down = true;
  AssignMachine m = machine();
  fake.run(m);
  const Error error = failure_of(m);
  EXPECT_EQ(error.code, ErrorCode::kTimeout);
  EXPECT_THAT(error.message, HasSubstr("node alpha"));
}

TEST_F(AssignMachineTest, APrepareIsNeverSentTwice) {
  beta().down_upon = "prepare";
  AssignMachine m = machine();
  std::size_t prepares = 0;
  m.start(fake.now);
  while (!m.done()) {
    for (const Outgoing& outgoing : m.take_outgoing()) {
      if (outgoing.node == 1 && wire::name_of(outgoing.request) == "prepare") ++prepares;
    }
    fake.now += std::chrono::milliseconds(100);
    m.on_tick(fake.now);
  }
  EXPECT_EQ(prepares, 1u);
}

TEST_F(AssignMachineTest, ANodeThatRestartsWhileLoadingIsNoticed) {
  beta().restarts_while_loading = true;
  AssignMachine m = machine();
  fake.run(m);
  EXPECT_THAT(failure_of(m).message, HasSubstr("beta (tcp://10.0.0.2:7341) no longer prepares"));
}

TEST_F(AssignMachineTest, ANodeThatRestartsWhileOthersStillLoadIsNoticedBeforeTheCommit) {
  beta().load_steps = 100;
  AssignMachine m = machine();
  fake.run(m, [&](int step) {
    if (step == 20) alpha().status.preparation.reset();
  });
  EXPECT_THAT(failure_of(m).message, HasSubstr("alpha (tcp://10.0.0.1:7341) no longer prepares"));
  EXPECT_EQ(fake.heard(1, "commit"), 0u);
}

TEST_F(AssignMachineTest, ALoadWithoutProgressStalls) {
  beta().load_hangs = true;
  AssignMachine m = machine();
  fake.run(m);
  const Error error = failure_of(m);
  EXPECT_EQ(error.code, ErrorCode::kTimeout);
  EXPECT_THAT(error.message, HasSubstr("loaded nothing for 180 s"));
}

TEST_F(AssignMachineTest, ASlowLoadThatAdvancesIsWaitedFor) {
  beta().load_steps = 3000;  // at four looks a second: longer than every timeout
  AssignMachine m = machine();
  fake.run(m);
  ASSERT_TRUE(m.done());
  EXPECT_TRUE(m.outcome().has_value()) << m.outcome().error().message;
}

TEST_F(AssignMachineTest, AnInterruptAbortsEverywhereWhileNothingIsCommitted) {
  beta().load_hangs = true;
  AssignMachine m = machine();
  fake.run(m, [&](int step) {
    if (step == 10) m.on_interrupt(fake.now);
  });
  const Error error = failure_of(m);
  EXPECT_EQ(error.code, ErrorCode::kCancelled);
  EXPECT_FALSE(alpha().status.preparation.has_value());
  EXPECT_FALSE(beta().status.preparation.has_value());
}

TEST_F(AssignMachineTest, AnInterruptDuringTheCommitLetsEveryNodeCommit) {
  beta().lose_replies = 1;
  AssignMachine m = machine();
  bool interrupted = false;
  fake.run(m, [&](int) {
    if (m.phase() == AssignPhase::kCommitting && !interrupted) {
      m.on_interrupt(fake.now);
      interrupted = true;
    }
  });
  ASSERT_TRUE(interrupted);
  ASSERT_TRUE(m.done());
  ASSERT_FALSE(m.outcome().has_value());
  EXPECT_EQ(m.outcome().error().code, ErrorCode::kCancelled);
  EXPECT_EQ(alpha().status.epoch, 1u);
  EXPECT_EQ(beta().status.epoch, 1u);
  EXPECT_EQ(fake.heard(0, "abort"), 0u);
}

TEST_F(AssignMachineTest, ALostCommitReplyIsAskedForAgain) {
  beta().lose_replies = 1;
  AssignMachine m = machine();
  fake.run(m);
  ASSERT_TRUE(m.done());
  EXPECT_TRUE(m.outcome().has_value()) << m.outcome().error().message;
  EXPECT_EQ(fake.heard(1, "commit"), 2u);
}

TEST_F(AssignMachineTest, AHalfDoneCommitNamesWhoHasCommitted) {
  beta().refuse_commit = Error{ErrorCode::kMismatch, "has not prepared epoch 1"};
  AssignMachine m = machine();
  fake.run(m);
  EXPECT_THAT(failure_of(m).message,
              AllOf(HasSubstr("beta (tcp://10.0.0.2:7341) refused to commit"),
                    HasSubstr("already committed on alpha"), Not(HasSubstr("serves on"))));
}

TEST_F(AssignMachineTest, ARouteThatNoTokenCrossesTimesOutWithTheNodesDetail) {
  beta().never_ready = true;
  beta().status.detail = "waiting for the canary";
  AssignMachine m = machine();
  fake.run(m);
  const Error error = failure_of(m);
  EXPECT_EQ(error.code, ErrorCode::kTimeout);
  EXPECT_THAT(error.message, AllOf(HasSubstr("no token has crossed"), HasSubstr("beta"),
                                   HasSubstr("waiting for the canary")));
}

TEST_F(AssignMachineTest, ALaterAssignmentOfSomebodyElseIsNoticed) {
  beta().never_ready = true;
  AssignMachine m = machine();
  fake.run(m, [&](int) {
    if (m.phase() == AssignPhase::kJoining) alpha().status.epoch = 9;
  });
  EXPECT_THAT(failure_of(m).message, HasSubstr("follows epoch 9 instead of 1"));
}

TEST_F(AssignMachineTest, LateAndForeignRepliesAreDropped) {
  AssignMachine m = machine();
  m.start(fake.now);
  const auto sent = m.take_outgoing();
  ASSERT_EQ(sent.size(), 2u);
  wire::Reply late;
  late.id = sent[0].request.id + 100;
  late.error = Error{ErrorCode::kInternal, "late"};
  m.on_reply(0, late, fake.now);
  m.on_reply(7, late, fake.now);  // no such node
  EXPECT_EQ(m.phase(), AssignPhase::kPreparing);
}

TEST_F(AssignMachineTest, AnAnswerThatCannotBeUnderstoodIsAFailure) {
  AssignMachine m = machine();
  m.start(fake.now);
  static_cast<void>(m.take_outgoing());
  m.on_reply(1, fail(ErrorCode::kUnsupported, "the peer speaks protocol version 9"), fake.now);
  EXPECT_EQ(m.phase(), AssignPhase::kAborting);
  const auto sent = m.take_outgoing();
  ASSERT_EQ(sent.size(), 2u);
  EXPECT_EQ(wire::name_of(sent[0].request), "abort");
  fake.now += std::chrono::minutes(1);
  m.on_tick(fake.now);
  m.on_tick(fake.now);
  ASSERT_TRUE(m.done());
  EXPECT_THAT(m.outcome().error().message, HasSubstr("protocol version 9"));
}

}  // namespace
}  // namespace ds4::ctl
