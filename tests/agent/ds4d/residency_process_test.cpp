// What agents hold, over restarts and reassignments.
#include <gmock/gmock.h>

#include "tests/agent/descriptor_holder.h"
#include "tests/agent/ds4d/residency_fixture.h"

namespace ds4::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using wire::NodeState;

constexpr const char* kMemfd =
    "[engine]\nthreads = 1\nmax_rows = 16\n[residency]\nstrategy = \"memfd\"\n";

class Memfd : public ::testing::Test {
 protected:
  AgentSpec spec() {
    AgentSpec spec;
    spec.name = "a";
    spec.toml = kMemfd;
    spec.environment = {{"NOTIFY_SOCKET", (directory.path() / "notify").string()}};
    spec.stored = [this] { return systemd.kept(); };
    return spec;
  }
  void expect_taken_back(const AgentProcess& agent) {
    ASSERT_TRUE(agent.becomes(NodeState::kReady)) << agent.log();
    const auto status = agent.status();
    EXPECT_EQ(status.resident.adopted_bytes, status.cover.cover_bytes);
    EXPECT_EQ(status.resident.read_bytes, 0U);
    EXPECT_EQ(status.resident.incore_bytes, status.cover.cover_bytes);
    EXPECT_EQ(status.resident.outside_cover_bytes, 0U);
  }
  TempDir directory;
  DescriptorHolder systemd{(directory.path() / "notify").string()};
};

TEST_F(Memfd, AfterKill9TheNextAgentFindsItsWeightsInMemory) {
  AgentProcess agent(spec());
  ASSERT_TRUE(assign({&agent}, route_of({{&agent, "0:output"}}), 1));
  const std::uint64_t weights = agent.status().cover.cover_bytes;
  EXPECT_EQ(agent.status().resident.read_bytes, weights);
  EXPECT_GT(bytes_read_by(agent.pid()), weights);  // else the count below could not fail
  const Said before = say(agent);
  EXPECT_EQ(before.tokens, 8U);
  ASSERT_TRUE(eventually([&] { return systemd.names().size() == 7; }));
  EXPECT_THAT(systemd.names(), ElementsAre("L0", "L1", "L2", "L3", "L4", "L5", "output"));
  agent.kill_hard();

  const auto begin = std::chrono::steady_clock::now();
  agent.start();
  ASSERT_TRUE(agent.becomes(NodeState::kReady)) << agent.log();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("ready %.3f s after the start\n", took.count());
  expect_taken_back(agent);
  EXPECT_LT(bytes_read_by(agent.pid()), weights / 2);  // header and samples
  EXPECT_THAT(proc_text(agent.pid(), "maps"), Not(HasSubstr("tiny-v4-q4.gguf")));
  EXPECT_EQ(say(agent).text, before.text);
}

TEST_F(Memfd, AnOrderlyStopLeavesThemToo) {
  AgentProcess agent(spec());
  ASSERT_TRUE(assign({&agent}, route_of({{&agent, "0:output"}}), 1));
  EXPECT_EQ(agent.stop(), 0);
  EXPECT_EQ(systemd.names().size(), 7U);
  agent.start();
  expect_taken_back(agent);
  EXPECT_EQ(systemd.names().size(), 7U);
}

TEST_F(Memfd, WithoutAHolderTheyEndWithTheProcess) {
  AgentProcess agent(spec());
  ASSERT_TRUE(assign({&agent}, route_of({{&agent, "0:output"}}), 1));
  ASSERT_TRUE(eventually([&] { return systemd.names().size() == 7; }));
  agent.kill_hard();
  systemd.drop_all();
  agent.start();
  ASSERT_TRUE(agent.becomes(NodeState::kReady));
  EXPECT_EQ(agent.status().resident.read_bytes, agent.status().cover.cover_bytes);
  EXPECT_EQ(agent.status().resident.adopted_bytes, 0U);
}

TEST_F(Memfd, ReleasedLayersLeaveTheStore) {
  AgentProcess agent(spec());
  ASSERT_TRUE(assign({&agent}, route_of({{&agent, "0:output"}}), 1));
  ASSERT_FALSE(agent.ask({.body = wire::ReleaseRequest{}})->error);
  EXPECT_TRUE(eventually([&] { return systemd.names().empty(); }));
}

TEST_F(Memfd, WhatNobodyNeedsAtTheStartLeavesTheStore) {
  AgentProcess agent(spec());
  ASSERT_TRUE(assign({&agent}, route_of({{&agent, "0:output"}}), 1));
  ASSERT_TRUE(eventually([&] { return systemd.names().size() == 7; }));
  agent.kill_hard();
  std::filesystem::remove(agent.state_dir() / "route.json");
  agent.start();
  EXPECT_TRUE(agent.becomes(NodeState::kIdle));
  EXPECT_TRUE(eventually([&] { return systemd.names().empty(); }));
}

/// Over two strategies: only the difference is loaded, what goes is freed.
class Reassignment : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Strategies, Reassignment, ::testing::Values("file", "memfd"));

TEST_P(Reassignment, LoadsTheDifferenceAndFreesTheRest) {
  const std::string toml = "[engine]\nthreads = 1\nmax_rows = 16\n[residency]\nstrategy = \"" +
                           std::string(GetParam()) + "\"\n";
  AgentProcess a({.name = "a", .toml = toml});
  AgentProcess b({.name = "b", .toml = toml});
  ASSERT_TRUE(assign({&a, &b}, route_of({{&a, "0:2"}, {&b, "3:output"}}), 1));
  const Said before = say(a);
  const std::uint64_t three = a.status().cover.cover_bytes;
  ASSERT_TRUE(assign({&a, &b}, route_of({{&a, "0:4"}, {&b, "5:output"}}), 2));

  const auto grown = a.status();
  EXPECT_EQ(grown.resident.kept_bytes, three);
  EXPECT_EQ(grown.resident.read_bytes, grown.cover.cover_bytes - three);
  const auto shrunk = b.status();
  EXPECT_EQ(shrunk.resident.read_bytes, 0U);
  EXPECT_EQ(shrunk.resident.kept_bytes, shrunk.cover.cover_bytes);
  for (const AgentProcess* agent : {&a, &b}) {
    EXPECT_TRUE(eventually([&] {  // the former slice goes behind the scenes
      const auto status = agent->status();
      return status.resident.mapped_bytes == status.cover.cover_bytes &&
             status.resident.incore_bytes == status.cover.cover_bytes &&
             status.resident.outside_cover_bytes == 0;
    }));
  }
  EXPECT_EQ(say(a).text, before.text);
}

TEST(Budget, WhatDoesNotFitIsRefusedBeforeTheFirstByte) {
  AgentProcess agent(
      {.name = "a",
       .toml = "[engine]\nthreads = 1\nmax_rows = 16\n[memory]\nbudget = \"14MiB\"\n"});
  const auto reply = agent.ask(
      {.body = wire::PrepareRequest{1, "", route_of({{&agent, "0:output"}}), agent.name()}});
  ASSERT_TRUE(reply && reply->error);
  EXPECT_EQ(reply->error->code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(reply->error->message,
              AllOf(HasSubstr("weights 17.86 MiB"), HasSubstr("KV cache"), HasSubstr("14.00 MiB"),
                    HasSubstr("is the most that fits from layer 0")));
  EXPECT_EQ(agent.status().state, NodeState::kIdle);
  EXPECT_EQ(agent.status().load.bytes_done, 0U);
  EXPECT_THAT(agent.log(), Not(HasSubstr("loading layers")));
}

TEST(Budget, WhereTheGpuDecidesTheRefusalComesFromTheLoad) {
  AgentProcess agent({.name = "a",
                      .toml = "[engine]\ndevice = \"auto\"\nthreads = 1\nmax_rows = 16\n"
                              "[memory]\nbudget = \"14MiB\"\n"});
  const auto reply = agent.ask(
      {.body = wire::PrepareRequest{1, "", route_of({{&agent, "0:output"}}), agent.name()}});
  ASSERT_TRUE(reply && !reply->error);
  ASSERT_TRUE(eventually([&] {
    const auto preparation = agent.status().preparation;
    return preparation && preparation->phase != wire::PreparePhase::kLoading;
  }));
  const auto status = agent.status();
  if (status.preparation->phase == wire::PreparePhase::kPrepared) {
    GTEST_SKIP() << "there is a GPU with memory of its own here";
  }
  EXPECT_THAT(status.preparation->detail,
              AllOf(HasSubstr("14.00 MiB"), HasSubstr("is the most that fits from layer 0")));
  EXPECT_EQ(status.load.bytes_done, 0U);
}

TEST(Audit, StatusHasEachIntervalOnlyWhereItIsAskedFor) {
  AgentProcess agent({.name = "a"});
  ASSERT_TRUE(assign({&agent}, route_of({{&agent, "0:output"}}), 1));
  EXPECT_THAT(agent.status().resident.intervals, IsEmpty());
  const auto reply = agent.ask({.body = wire::StatusRequest{.spans = true}});
  ASSERT_TRUE(reply && reply->status);
  const auto& status = *reply->status;
  ASSERT_EQ(status.resident.intervals.size(), status.cover.intervals.size());
  std::uint64_t incore = 0;
  for (const auto& interval : status.resident.intervals) incore += interval.incore_bytes;
  EXPECT_EQ(incore, status.cover.cover_bytes);
  EXPECT_EQ(status.resident.strategy, "file");
  EXPECT_GT(status.resident.load_us, 0U);
  EXPECT_THAT(status.kv_formula, HasSubstr("positions"));
}

}  // namespace
}  // namespace ds4::test
