// Sessions of local programs over a real route: put away on disk and brought back, and going on
// when the agent that they talk to was killed.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <future>
#include <map>
#include <thread>

#include "ipc/client/ds4.hpp"
#include "tests/agent/agent_process.h"

namespace ds4::test {
namespace {

using client::Connection;
using Tokens = std::vector<ds4_token>;

struct Answer {
  Tokens tokens;
  ds4_event final = {};
};

/// Until the final of `id`; `at` is called with the number of tokens so far.
Answer take(Connection& connection, std::uint64_t id,
            const std::function<void(std::size_t)>& at = {}) {
  Answer answer;
  while (const auto event = connection.next(kPatience)) {
    if (event->request != id) continue;
    if (client::is_final(*event)) {
      answer.final = *event;
      return answer;
    }
    if (!client::is_token(*event)) continue;
    answer.tokens.push_back(event->token);
    if (at) at(answer.tokens.size());
  }
  ADD_FAILURE() << "no final";
  return answer;
}

client::Request sampling(std::span<const ds4_token> prompt, std::uint32_t max_tokens) {
  client::Request request;
  request.prompt = prompt;
  request.max_tokens = max_tokens;
  request.temperature = 1;
  request.seed = 4711;
  request.stop_at_eos = false;
  return request;
}

/// What a session says from where `session` is on.
client::Request going_on(std::uint64_t session, std::uint32_t max_tokens) {
  client::Request request = sampling({}, max_tokens);
  request.session = session;
  request.keep_session = true;
  return request;
}

class RouteSessions : public ::testing::Test {
 protected:
  void make(const std::string& toml) {
    a = std::make_unique<AgentProcess>(AgentSpec{.name = "a", .toml = toml});
    b = std::make_unique<AgentProcess>(AgentSpec{.name = "b", .toml = toml});
    ASSERT_TRUE(assign({a.get(), b.get()}, route_of({{a.get(), "0:2"}, {b.get(), "3:output"}}), 1));
    connection.emplace(a->socket_path());
    prompt = connection->tokenize("The ocean is");
    quiet = take(*connection, connection->submit(sampling(prompt, 260))).tokens;
    ASSERT_EQ(quiet.size(), 260U);
  }
  /// A kept session that has said the first so many tokens of the quiet run.
  std::uint64_t begin(std::uint32_t tokens) {
    client::Request request = sampling(prompt, tokens);
    request.keep_session = true;
    const Answer answer = take(*connection, connection->submit(request));
    EXPECT_EQ(answer.tokens, part(0, tokens));
    return answer.final.session;
  }
  Tokens part(std::size_t first, std::size_t count) const {
    const auto begin = quiet.begin() + static_cast<std::ptrdiff_t>(first);
    return {begin, begin + static_cast<std::ptrdiff_t>(count)};
  }
  static std::size_t files_of(const AgentProcess& agent) {
    const std::filesystem::directory_iterator files(agent.state_dir() / "kv");
    return static_cast<std::size_t>(std::distance(std::filesystem::begin(files), {}));
  }

  std::unique_ptr<AgentProcess> a;
  std::unique_ptr<AgentProcess> b;
  std::optional<Connection> connection;
  Tokens prompt;
  Tokens quiet;
};

TEST_F(RouteSessions, WhoIsIdleIsPutAwayAndReadBackInsteadOfComputedAgain) {
  make("[engine]\nthreads = 1\n[kv]\ndisk_after_s = 1\n");
  const std::uint64_t session = begin(200);
  std::map<const AgentProcess*, std::uint64_t> rows;
  for (const AgentProcess* agent : {a.get(), b.get()}) {
    ASSERT_TRUE(eventually([&] { return agent->status().stage.saves == 1; }));
    const wire::NodeStatus status = agent->status();
    EXPECT_EQ(status.sessions, 0U);
    EXPECT_EQ(status.kv_bytes, 0U);
    EXPECT_EQ(status.stage.stored_sessions, 1U);
    EXPECT_GT(status.stage.stored_bytes, 0U);
    EXPECT_EQ(files_of(*agent), 1U);
    rows[agent] = status.stage.prefill_rows;
  }
  EXPECT_EQ(take(*connection, connection->submit(going_on(session, 60))).tokens, part(200, 60));
  for (const AgentProcess* agent : {a.get(), b.get()}) {
    const wire::NodeStatus status = agent->status();
    EXPECT_EQ(status.stage.restores, 1U);
    EXPECT_EQ(status.stage.prefill_rows, rows[agent]) << "nothing was computed again";
  }
  ASSERT_TRUE(eventually([&] { return b->status().stage.saves == 2; }));
  connection.reset();
  for (const AgentProcess* agent : {a.get(), b.get()}) {
    EXPECT_TRUE(eventually([&] { return files_of(*agent) == 0; })) << "it is closed";
  }
}

TEST_F(RouteSessions, NothingIsWrittenWhereTheDiskIsOff) {
  make("[engine]\nthreads = 1\n[kv]\ndisk_after_s = 1\ndisk_mib = 0\n");
  const std::uint64_t session = begin(20);
  std::this_thread::sleep_for(std::chrono::milliseconds(2500));
  EXPECT_EQ(a->status().sessions, 1U);
  EXPECT_EQ(a->status().stage.stored_sessions, 0U);
  EXPECT_FALSE(std::filesystem::exists(a->state_dir() / "kv"));
  EXPECT_EQ(take(*connection, connection->submit(going_on(session, 30))).tokens, part(20, 30));
}

TEST_F(RouteSessions, AStageThatWasKilledLeavesNoFilesAndTheSessionGoesOn) {
  make("[engine]\nthreads = 1\n[kv]\ndisk_after_s = 1\n");
  const std::uint64_t session = begin(100);
  ASSERT_TRUE(eventually([&] { return b->status().stage.saves == 1; }));
  b->kill_hard();
  EXPECT_EQ(files_of(*b), 1U);
  b->start();
  EXPECT_EQ(files_of(*b), 0U);
  ASSERT_TRUE(b->becomes(wire::NodeState::kReady) && a->becomes(wire::NodeState::kReady));
  EXPECT_EQ(take(*connection, connection->submit(going_on(session, 60))).tokens, part(100, 60));
}

// What the entry knew of its clients' sessions went with it: the clients' library has it, and shows
// it to the entry that comes back.
TEST_F(RouteSessions, StreamsAndKeptSessionsOfLivingClientsGoOnWhenTheirEntryWasKilled) {
  make("[engine]\nthreads = 1\n");
  const std::uint64_t session = begin(50);
  client::Request request = sampling(prompt, 260);
  request.resume = true;
  const Answer stream = take(*connection, connection->submit(request), [&](std::size_t tokens) {
    if (tokens != 7 && tokens != 140) return;
    a->kill_hard();
    a->start();
  });
  EXPECT_EQ(stream.tokens, quiet);
  EXPECT_EQ(stream.final.status, DS4_OK_LENGTH);
  client::Request more = going_on(session, 100);
  more.resume = true;
  EXPECT_EQ(take(*connection, connection->submit(more)).tokens, part(50, 100));
  connection.reset();
  for (const AgentProcess* agent : {a.get(), b.get()}) {
    EXPECT_TRUE(eventually([&] {
      const wire::NodeStatus status = agent->status();
      return status.kv_bytes == 0 && status.sessions == 0;
    }));
  }
}

/// What `ds4ctl run` prints, with its exit status.
std::pair<std::string, int> run_ds4ctl(const std::string& arguments) {
  const std::string command = DS4_BINARY_DIR "/bin/ds4ctl run " + arguments + " 2>&1";
  FILE* pipe = ::popen(command.c_str(), "re");
  std::string output;
  for (int c = pipe == nullptr ? EOF : std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) {
    output += static_cast<char>(c);
  }
  return {output, pipe == nullptr ? -1 : ::pclose(pipe)};
}

TEST_F(RouteSessions, AQuestionAskedWhileTheAgentIsAwayIsAnsweredWhenItIsBack) {
  make("[engine]\nthreads = 1\n");
  const std::string question =
      fmt::format("--socket {} --raw -n 40 --temp 1 --seed 3 'The ocean is'", a->socket_path());
  const auto quiet_run = run_ds4ctl(question);
  ASSERT_EQ(quiet_run.second, 0) << quiet_run.first;
  a->kill_hard();
  EXPECT_NE(run_ds4ctl(question).second, 0) << "without --wait it fails at once";
  auto later = std::async(std::launch::async, [&] { return run_ds4ctl("--wait 60 " + question); });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  a->start();
  EXPECT_EQ(later.get(), quiet_run);
}

}  // namespace
}  // namespace ds4::test
