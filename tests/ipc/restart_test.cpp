// Real agents that are killed under their clients: the answer is the one of a quiet run, token by
// token; and forked sessions say what their sources would have said.
#include <gtest/gtest.h>

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
  std::optional<std::uint32_t> position;
  while (const auto event = connection.next(kPatience)) {
    if (event->request != id) continue;
    if (client::is_final(*event)) {
      answer.final = *event;
      return answer;
    }
    if (!client::is_token(*event)) continue;
    EXPECT_EQ(event->position, position.value_or(event->position - 1) + 1) << "a gap or a repeat";
    position = event->position;
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

class Restart : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(assign({&agent}, route_of({{&agent, "0:output"}}), 1));
    connection.emplace(agent.socket_path());
    prompt = connection->tokenize("The ocean is");
  }
  AgentProcess agent{{"a"}};
  std::optional<Connection> connection;
  Tokens prompt;
};

TEST_F(Restart, AResumedAnswerIsThatOfAQuietRun) {
  const Tokens quiet = take(*connection, connection->submit(sampling(prompt, 400))).tokens;
  ASSERT_EQ(quiet.size(), 400U);
  client::Request request = sampling(prompt, 400);
  request.resume = true;
  const Answer answer = take(*connection, connection->submit(request), [&](std::size_t tokens) {
    if (tokens != 5 && tokens != 390) return;
    agent.kill_hard();
    agent.start();
  });
  EXPECT_EQ(answer.tokens, quiet);
  EXPECT_EQ(answer.final.status, DS4_OK_LENGTH);
  EXPECT_EQ(answer.final.generated_tokens, 400U);
  EXPECT_GE(connection->info().reconnects, 1U);
}

TEST_F(Restart, WithoutResumeTheErrorIsTypedAndTheSessionGoesOnExactly) {
  client::Request request = sampling(prompt, 20);
  request.keep_session = true;
  const Answer first = take(*connection, connection->submit(request));
  const std::uint64_t session = first.final.session;
  client::Request more = sampling({}, 30);
  more.session = session;
  more.keep_session = true;
  const auto fork = take(*connection, connection->fork_session(session)).final;
  ASSERT_EQ(fork.status, DS4_OK_FORKED);
  client::Request copy = more;
  copy.session = fork.session;
  const Tokens quiet = take(*connection, connection->submit(copy)).tokens;
  ASSERT_EQ(quiet.size(), 30U);

  more.max_tokens = 0;
  const Answer cut = take(*connection, connection->submit(more), [&](std::size_t tokens) {
    if (tokens == 3) agent.kill_hard();
  });
  EXPECT_EQ(cut.final.status, DS4_AGENT_SHUTDOWN);
  EXPECT_EQ(cut.final.session, session) << "it is as it was before the request";
  agent.start();
  more.max_tokens = 30;
  for (;;) {
    const Answer again = take(*connection, connection->submit(more));
    if (again.final.status == DS4_ROUTE_NOT_READY) continue;  // retryable: the agent only starts
    EXPECT_EQ(again.tokens, quiet);
    break;
  }
}

TEST_F(Restart, AForkedSessionSaysWhatItsSourceWouldAndBothGoOnApart) {
  client::Request request = sampling(prompt, 200);  // beyond a window and several blocks
  request.keep_session = true;
  const std::uint64_t source = take(*connection, connection->submit(request)).final.session;
  const std::uint64_t copy = take(*connection, connection->fork_session(source)).final.session;
  ASSERT_NE(copy, 0U);
  ASSERT_NE(copy, source);
  // The entry answers a fork before the engine thread has copied the rows.
  EXPECT_TRUE(eventually([&] { return agent.status().sessions == 2; }))
      << "the copy is a cache, not only tokens";
  client::Request more = sampling({}, 40);
  more.keep_session = true;
  more.session = source;
  const Tokens from_source = take(*connection, connection->submit(more)).tokens;
  more.session = copy;
  EXPECT_EQ(take(*connection, connection->submit(more)).tokens, from_source);
  const Tokens other = connection->tokenize(" Paris");
  more.prompt = other;
  EXPECT_NE(take(*connection, connection->submit(more)).tokens, from_source);
  more.prompt = {};
  more.session = source;
  EXPECT_EQ(take(*connection, connection->submit(more)).final.status, DS4_OK_LENGTH);
  EXPECT_EQ(take(*connection, connection->fork_session(12345)).final.status, DS4_UNKNOWN_SESSION);
}

}  // namespace
}  // namespace ds4::test
