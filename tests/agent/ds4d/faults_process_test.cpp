// Memory and files that fail under a running agent: the slice is lost with a reason, clients get a
// typed error, the agent lives and serves again.
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "tests/agent/ds4d/residency_fixture.h"

namespace ds4::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using wire::NodeState;

constexpr int kFirstError = 32;  // of ds4_status

std::string read_whole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Faults : public ::testing::Test {
 protected:
  AgentSpec spec(const std::string& strategy) const {
    AgentSpec spec;
    spec.model = model.path();
    spec.toml =
        "[engine]\nthreads = 1\nmax_rows = 16\n[residency]\nstrategy = \"" + strategy + "\"\n";
    return spec;
  }
  void serve(const AgentProcess& agent, std::uint64_t epoch) {
    ASSERT_TRUE(assign({&agent}, route_of({{&agent, "0:output"}}), epoch)) << agent.log();
    const Said said = say(agent);
    EXPECT_EQ(said.tokens, 8U);
    if (expected.empty()) expected = said.text;
    EXPECT_EQ(said.text, expected);
  }
  SpareModel model;
  std::string expected;
};

TEST_F(Faults, ATruncatedFileCostsItsSliceAndNotTheAgent) {
  AgentProcess agent(spec("file"));
  serve(agent, 1);
  client::Connection connection(agent.socket_path());
  const auto prompt = connection.tokenize("The ocean");
  client::Request endless;
  endless.prompt = prompt;
  endless.stop_at_eos = false;
  connection.submit(endless);
  ASSERT_TRUE(connection.next(kPatience));
  model.truncate(3'000'000);
  int status = -1;
  while (const auto event = connection.next(kPatience)) {
    if (!client::is_final(*event)) continue;
    status = event->status;
    break;
  }
  EXPECT_GE(status, kFirstError);
  ASSERT_TRUE(agent.becomes(NodeState::kFailed)) << agent.log();
  EXPECT_THAT(agent.status().detail, HasSubstr(model.path()));
  EXPECT_GE(say(agent).status, kFirstError);
  model.restore();
  serve(agent, 2);
}

TEST_F(Faults, ATruncatedFileThatNobodyComputesFromIsNoticedToo) {
  AgentProcess agent(spec("file"));
  serve(agent, 1);
  model.truncate(3'000'000);
  ASSERT_TRUE(agent.becomes(NodeState::kFailed)) << agent.log();
  // While it is short it can be neither loaded nor opened, and says so.
  const auto reply = agent.ask(
      {.body = wire::PrepareRequest{2, "", route_of({{&agent, "0:output"}}), agent.name()}});
  ASSERT_TRUE(reply);
  if (!reply->error) {
    EXPECT_TRUE(eventually([&] {
      const auto preparation = agent.status().preparation;
      return preparation && preparation->phase == wire::PreparePhase::kFailed;
    }));
  }
  model.restore();
  serve(agent, 3);
}

TEST_F(Faults, AFileThatIsWrittenToFailsTheSliceThatShowsIt) {
  AgentProcess agent(spec("file"));
  serve(agent, 1);
  const std::string fingerprint = agent.status().fingerprint;
  model.restore();  // the same bytes: what counts is that they were written
  ASSERT_TRUE(agent.becomes(NodeState::kFailed)) << agent.log();
  EXPECT_THAT(agent.status().detail, AllOf(HasSubstr("written to"), HasSubstr("assign")));
  serve(agent, 2);
  EXPECT_EQ(agent.status().fingerprint, fingerprint);
}

TEST_F(Faults, AReplacedFileServesOnAndTheNextAssignmentTakesTheNewOne) {
  AgentProcess agent(spec("file"));
  serve(agent, 1);
  const std::string next = model.path() + ".new";
  std::filesystem::copy_file(tiny_q4_model(), next);
  std::filesystem::rename(next, model.path());
  ASSERT_TRUE(eventually([&] { return agent.log().find("was replaced") != std::string::npos; }));
  EXPECT_EQ(agent.status().state, NodeState::kReady);
  EXPECT_EQ(say(agent).text, expected);
  serve(agent, 2);
}

TEST_F(Faults, ACopyDoesNotMindWhatBecomesOfTheFile) {
  AgentProcess agent(spec("memfd"));
  serve(agent, 1);
  model.truncate(3'000'000);
  ASSERT_TRUE(eventually([&] { return agent.log().find("cannot be used") != std::string::npos; }));
  EXPECT_EQ(agent.status().state, NodeState::kReady);
  EXPECT_EQ(say(agent).text, expected);
  model.restore();
  serve(agent, 2);
}

TEST_F(Faults, AModelOfOtherMetadataWantsARestart) {
  AgentProcess agent(spec("memfd"));
  serve(agent, 1);
  std::string bytes = read_whole(model.path());
  const std::size_t key = bytes.find("general.name");
  ASSERT_NE(key, std::string::npos);
  bytes[key + 11] = 'a';
  std::ofstream(model.path() + ".new", std::ios::binary) << bytes;
  std::filesystem::rename(model.path() + ".new", model.path());
  EXPECT_TRUE(eventually([&] { return agent.log().find("restart ds4d") != std::string::npos; }));
  EXPECT_EQ(say(agent).text, expected);
}

/// What a disk and a kernel refuse, under the shim of tests/agent/fault_shim.cpp.
class Refusals : public Faults {
 protected:
  AgentSpec shimmed(const std::string& strategy, const std::string& name = "a") const {
    AgentSpec spec = Faults::spec(strategy);
    spec.name = name;
    std::string asan = "verify_asan_link_order=0";
    if (const char* const more = std::getenv("ASAN_OPTIONS")) asan.append(":").append(more);
    spec.environment = {{"LD_PRELOAD", DS4_FAULT_SHIM},
                        {"DS4_FAULTS", faults.path().string()},
                        {"ASAN_OPTIONS", asan}};
    return spec;
  }
  void begin(const char* fault) const { std::ofstream(faults.path() / fault) << "now"; }
  void end(const char* fault) const { std::filesystem::remove(faults.path() / fault); }
  /// Restarted into its assignment, it cannot have its layers and says why.
  void expect_failed_start(AgentProcess& agent, const std::string& why) const {
    EXPECT_EQ(agent.stop(), 0);
    agent.start();
    ASSERT_TRUE(agent.becomes(NodeState::kFailed)) << agent.log();
    EXPECT_THAT(agent.status().detail, HasSubstr(why));
    EXPECT_EQ(agent.status().resident.mapped_bytes, 0U);
    EXPECT_GE(say(agent).status, kFirstError);
  }
  TempDir faults;
};

TEST_F(Refusals, ADiskThatCannotBeReadFailsTheSliceUntilItCan) {
  AgentProcess agent(shimmed("memfd"));
  serve(agent, 1);
  begin("read_error");
  expect_failed_start(agent, "Input/output error");
  end("read_error");
  serve(agent, 2);
}

TEST_F(Refusals, ADiskThatCannotBeReadLeavesWhatServes) {
  AgentProcess agent(shimmed("memfd"));
  AgentProcess rest(shimmed("memfd", "b"));
  const auto both = [&](const char* first, const char* second) {
    return route_of({{&agent, first}, {&rest, second}});
  };
  ASSERT_TRUE(assign({&agent, &rest}, both("0:2", "3:output"), 1));
  const std::string before = say(agent).text;
  begin("read_error");
  const auto reply =
      agent.ask({.body = wire::PrepareRequest{2, "", both("0:4", "5:output"), agent.name()}});
  ASSERT_TRUE(reply && !reply->error);
  ASSERT_TRUE(eventually([&] {
    const auto preparation = agent.status().preparation;
    return preparation && preparation->phase == wire::PreparePhase::kFailed;
  }));
  EXPECT_THAT(agent.status().preparation->detail, HasSubstr("Input/output error"));
  EXPECT_EQ(agent.status().state, NodeState::kReady);
  EXPECT_EQ(say(agent).text, before);
  end("read_error");
  ASSERT_TRUE(assign({&agent, &rest}, both("0:4", "5:output"), 3));
  EXPECT_EQ(say(agent).text, before);
}

TEST_F(Refusals, MemoryThatMustBeLockedAndCannotFailsTheSliceUntilItCan) {
  AgentSpec spec = shimmed("file");
  spec.toml += "[memory]\nmust_lock = true\n";
  AgentProcess agent(spec);
  serve(agent, 1);
  begin("lock_error");
  expect_failed_start(agent, "not locked");
  end("lock_error");
  serve(agent, 2);
}

TEST_F(Faults, WithoutADeviceTheGpuStrategiesAreRefusedAndOthersServe) {
  AgentProcess agent(spec("cuda-device"));
  const auto reply = agent.ask(
      {.body = wire::PrepareRequest{1, "", route_of({{&agent, "0:output"}}), agent.name()}});
  ASSERT_TRUE(reply && !reply->error);
  ASSERT_TRUE(eventually([&] {
    const auto preparation = agent.status().preparation;
    return preparation && preparation->phase != wire::PreparePhase::kLoading;
  }));
  if (agent.status().preparation->phase == wire::PreparePhase::kPrepared) {
    GTEST_SKIP() << "there is a GPU here";
  }
  EXPECT_GT(agent.status().preparation->detail.size(), 20U);
  EXPECT_EQ(agent.status().state, NodeState::kIdle);
}

}  // namespace
}  // namespace ds4::test
