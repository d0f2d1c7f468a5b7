// Two and three real agents, driven as ds4ctl drives them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <iostream>

#include "tests/agent/agent_process.h"

namespace ds4::test {
namespace {

using ::testing::HasSubstr;
using wire::NodeState;

class TwoAgents : public ::testing::Test {
 protected:
  std::vector<wire::StageSpec> split(const std::string& first, const std::string& second) const {
    return route_of({{&a, first}, {&b, second}});
  }
  std::optional<Error> prepare_error(const AgentProcess& agent,
                                     wire::PrepareRequest request) const {
    const auto reply = agent.ask({.body = std::move(request)});
    return reply ? reply->error : Error{ErrorCode::kTimeout, "silent"};
  }
  bool prepared(const AgentProcess& agent) const {
    return eventually([&] {
      const auto preparation = agent.status().preparation;
      return preparation && preparation->phase == wire::PreparePhase::kPrepared;
    });
  }

  AgentProcess a{{.name = "a"}};
  AgentProcess b{{.name = "b"}};
};

TEST_F(TwoAgents, AnUnassignedAgentTellsWhatItKnows) {
  const auto status = a.status();
  EXPECT_EQ(status.name, "a");
  EXPECT_EQ(status.state, NodeState::kIdle);
  EXPECT_EQ(status.block_count, 6U);
  EXPECT_EQ(status.model, tiny_q4_model());
  EXPECT_EQ(status.fingerprint.size(), 32U);
  EXPECT_EQ(status.epoch, 0U);
}

TEST_F(TwoAgents, HoldExactlyTheirLayersAndNothingElse) {
  ASSERT_TRUE(assign({&a, &b}, split("0:2", "3:output"), 1));
  for (const AgentProcess* agent : {&a, &b}) {
    const auto status = agent->status();
    EXPECT_EQ(status.epoch, 1U);
    EXPECT_EQ(status.layers, agent == &a ? "0:2" : "3:output");
    EXPECT_GT(status.cover.cover_bytes, 0U);
    EXPECT_EQ(status.resident.outside_cover_bytes, 0U);
    EXPECT_EQ(status.resident.incore_bytes, status.cover.cover_bytes);
    EXPECT_EQ(status.resident.mapped_bytes, status.cover.cover_bytes);
    EXPECT_GT(status.resident.load_peak_bytes, 0U);
    EXPECT_EQ(status.load.bytes_done, status.load.bytes_total);
    EXPECT_EQ(status.sessions, 0U);  // the canary's session is closed
    EXPECT_THAT(agent->log(), HasSubstr("span cover "));
  }
}

TEST_F(TwoAgents, AKilledAgentComesBackByItself) {
  ASSERT_TRUE(assign({&a, &b}, split("0:2", "3:output"), 1));
  b.kill_hard();
  EXPECT_TRUE(a.becomes(NodeState::kDegraded));
  EXPECT_THAT(a.status().detail, HasSubstr("no word from node b"));
  b.start();
  EXPECT_TRUE(b.becomes(NodeState::kReady));
  EXPECT_TRUE(a.becomes(NodeState::kReady));
  EXPECT_EQ(b.status().epoch, 1U);
  EXPECT_EQ(b.status().layers, "3:output");
}

TEST_F(TwoAgents, TheFirstStageComesBackByItself) {
  ASSERT_TRUE(assign({&a, &b}, split("0:2", "3:output"), 1));
  a.kill_hard();
  EXPECT_TRUE(b.becomes(NodeState::kDegraded));
  a.start();
  EXPECT_TRUE(a.becomes(NodeState::kReady));
  EXPECT_TRUE(b.becomes(NodeState::kReady));
}

TEST_F(TwoAgents, AHaltedAgentDegradesTheRouteUntilItGoesOn) {
  ASSERT_TRUE(assign({&a, &b}, split("0:2", "3:output"), 1));
  b.signal(SIGSTOP);
  EXPECT_TRUE(a.becomes(NodeState::kDegraded));
  b.signal(SIGCONT);
  EXPECT_TRUE(a.becomes(NodeState::kReady));
  EXPECT_TRUE(b.becomes(NodeState::kReady));
}

TEST_F(TwoAgents, StopInOrderOnSigterm) {
  ASSERT_TRUE(assign({&a, &b}, split("0:2", "3:output"), 1));
  EXPECT_EQ(a.stop(), 0);
  EXPECT_THAT(a.log(), HasSubstr("stopped"));
  EXPECT_EQ(b.stop(), 0);
  a.start();
  b.start();
  EXPECT_TRUE(a.becomes(NodeState::kReady));  // the assignment was kept
}

TEST_F(TwoAgents, AnotherSplitIsPreparedBesideTheServingOne) {
  ASSERT_TRUE(assign({&a, &b}, split("0:2", "3:output"), 1));
  const auto next = split("0:3", "4:output");
  ASSERT_FALSE(prepare_error(a, {2, "", next, "a"}));
  ASSERT_TRUE(prepared(a));
  EXPECT_EQ(a.status().state, NodeState::kReady);
  EXPECT_EQ(a.status().layers, "0:2");

  const auto aborted = a.ask({.body = wire::AbortRequest{2}});
  ASSERT_TRUE(aborted && !aborted->error);
  EXPECT_FALSE(a.status().preparation);
  EXPECT_EQ(a.status().highest_epoch, 2U);

  ASSERT_TRUE(assign({&a, &b}, split("0:3", "4:output"), 3));
  EXPECT_EQ(a.status().layers, "0:3");
  EXPECT_EQ(a.status().resident.incore_bytes, a.status().cover.cover_bytes);
  EXPECT_EQ(b.status().resident.outside_cover_bytes, 0U);
}

TEST_F(TwoAgents, AReleasedNodeIsIdleAlsoAfterARestart) {
  ASSERT_TRUE(assign({&a, &b}, split("0:2", "3:output"), 1));
  const auto released = b.ask({.body = wire::ReleaseRequest{}});
  ASSERT_TRUE(released && !released->error);
  EXPECT_EQ(b.status().state, NodeState::kIdle);
  EXPECT_EQ(b.status().resident.mapped_bytes, 0U);
  EXPECT_TRUE(a.becomes(NodeState::kDegraded));
  b.kill_hard();
  b.start();
  EXPECT_EQ(b.status().state, NodeState::kIdle);
  EXPECT_EQ(b.status().highest_epoch, 1U);
}

TEST_F(TwoAgents, BadRoutesAreRefusedWithASentence) {
  const auto gap = prepare_error(a, {1, "", split("0:1", "3:output"), "a"});
  ASSERT_TRUE(gap);
  EXPECT_THAT(gap->message, HasSubstr("no node holds layers 2:2"));
  const auto overlap = prepare_error(a, {1, "", split("0:3", "3:output"), "a"});
  ASSERT_TRUE(overlap);
  EXPECT_THAT(overlap->message, HasSubstr("held twice"));
  const auto headless = prepare_error(a, {1, "", split("0:2", "3:5"), "a"});
  ASSERT_TRUE(headless);
  EXPECT_THAT(headless->message, HasSubstr("output head"));
  const auto beyond = prepare_error(a, {1, "", split("0:2", "3:9"), "a"});
  ASSERT_TRUE(beyond);
  const auto other = prepare_error(a, {1, "", split("0:2", "3:output"), "b"});
  ASSERT_TRUE(other);
  EXPECT_THAT(other->message, HasSubstr("this agent is node a, not b"));
  EXPECT_EQ(a.status().state, NodeState::kIdle);
  EXPECT_EQ(a.status().highest_epoch, 0U);
}

TEST_F(TwoAgents, CommitOfWhatWasNeverPreparedIsRefused) {
  const auto reply = a.ask({.body = wire::CommitRequest{1}});
  ASSERT_TRUE(reply && reply->error);
  EXPECT_EQ(reply->error->code, ErrorCode::kMismatch);
}

TEST(Agents, WithDifferentFilesDoNotFormARoute) {
  AgentProcess a({.name = "a"});
  AgentProcess b({.name = "b", .model = tiny_q2_model()});
  const auto route = route_of({{&a, "0:2"}, {&b, "3:output"}});
  const auto reply = b.ask({.body = wire::PrepareRequest{1, a.status().fingerprint, route, "b"}});
  ASSERT_TRUE(reply && reply->error);
  EXPECT_EQ(reply->error->code, ErrorCode::kMismatch);
  EXPECT_THAT(reply->error->message, HasSubstr("node b has another model file"));
}

TEST(Agents, OneAloneServesTheWholeModel) {
  AgentProcess a({.name = "a"});
  ASSERT_TRUE(assign({&a}, route_of({{&a, "0:output"}}), 1));
  a.kill_hard();
  a.start();
  EXPECT_TRUE(a.becomes(NodeState::kReady));
}

/// The first, the middle and the last stage of a route in turn.
class KilledStage : public ::testing::TestWithParam<std::size_t> {};

TEST_P(KilledStage, TakesTheRouteOutOfReadyOnBothOtherNodes) {
  AgentProcess a({.name = "a"});
  AgentProcess b({.name = "b"});
  AgentProcess c({.name = "c"});
  const std::vector<AgentProcess*> agents = {&a, &b, &c};
  ASSERT_TRUE(assign({&a, &b, &c}, route_of({{&a, "0:1"}, {&b, "2:3"}, {&c, "4:output"}}), 1));
  agents[GetParam()]->kill_hard();
  const auto killed = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < agents.size(); ++i) {
    if (i == GetParam()) continue;
    EXPECT_TRUE(eventually([&] { return agents[i]->status().state != NodeState::kReady; }));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - killed;
    // To be read; a loaded machine is no reason to fail.
    std::cout << "node " << agents[i]->name() << " is not ready any more after " << took.count()
              << " s\n";
  }
  agents[GetParam()]->start();
  for (const AgentProcess* agent : agents) EXPECT_TRUE(agent->becomes(NodeState::kReady));
}

INSTANTIATE_TEST_SUITE_P(Everywhere, KilledStage, ::testing::Values(0, 1, 2));

TEST(Agents, AnAssignmentForAnotherFileIsNotRestored) {
  TempDir models;
  const auto path = models.path() / "model.gguf";
  std::filesystem::copy_file(tiny_q4_model(), path);
  AgentProcess a({.name = "a", .model = path.string()});
  ASSERT_TRUE(assign({&a}, route_of({{&a, "0:output"}}), 1));
  ASSERT_EQ(a.stop(), 0);
  std::filesystem::remove(path);
  std::filesystem::copy_file(tiny_q2_model(), path);
  a.start();
  EXPECT_TRUE(a.becomes(NodeState::kFailed));
  EXPECT_THAT(a.status().detail, HasSubstr("another model file"));
  // A new assignment is the way out.
  EXPECT_TRUE(assign({&a}, route_of({{&a, "0:output"}}), 2));
}

}  // namespace
}  // namespace ds4::test
