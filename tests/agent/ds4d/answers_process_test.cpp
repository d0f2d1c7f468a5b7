// Local programs against real agents: answers, and what is left when somebody dies.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ipc/client/ds4.hpp"
#include "tests/agent/agent_process.h"

namespace ds4::test {
namespace {

using wire::NodeState;

struct Answer {
  std::string text;
  std::uint32_t tokens = 0;
  int status = -1;
};

/// Takes events until the final of one request.
Answer take_answer(client::Connection& connection) {
  Answer answer;
  auto decoder = connection.decoder();
  while (const auto event = connection.next(kPatience)) {
    if (client::is_token(*event)) {
      answer.text += decoder.push(event->token);
      ++answer.tokens;
    } else if (client::is_final(*event)) {
      answer.text += decoder.finish();
      answer.status = event->status;
      return answer;
    }
  }
  ADD_FAILURE() << "no answer";
  return answer;
}

Answer ask(const AgentProcess& agent, std::string_view question) {
  client::Connection connection(agent.socket_path());
  const auto prompt = connection.chat(question);
  connection.submit({.prompt = prompt});
  return take_answer(connection);
}

/// Begins an answer that does not end by itself for a long time, and waits for its first token.
void begin_endless(client::Connection& connection) {
  const auto prompt = connection.tokenize("The ocean");
  client::Request request;
  request.prompt = prompt;
  request.stop_at_eos = false;
  connection.submit(request);
  const auto event = connection.next(kPatience);
  ASSERT_TRUE(event && client::is_token(*event));
}

class Answers : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(assign({&a, &b}, route_of({{&a, "0:2"}, {&b, "3:output"}}), 1));
  }
  bool holds_no_session(const AgentProcess& agent) const {
    return eventually([&] { return agent.status().sessions == 0 && agent.status().kv_bytes == 0; });
  }
  AgentProcess a{{.name = "a"}};
  AgentProcess b{{.name = "b"}};
};

TEST_F(Answers, ComeFromEveryAgentOfTheRoute) {
  EXPECT_EQ(ask(a, "What is the capital of France?").text, "The capital of France is Paris.");
  EXPECT_EQ(ask(b, "What is the capital of France?").text, "The capital of France is Paris.");
  EXPECT_TRUE(holds_no_session(a));
  EXPECT_TRUE(holds_no_session(b));
}

TEST_F(Answers, AVanishedClientLeavesNothing) {
  {
    client::Connection connection(b.socket_path());
    begin_endless(connection);
  }
  EXPECT_TRUE(holds_no_session(a));
  EXPECT_TRUE(holds_no_session(b));
  EXPECT_EQ(ask(b, "What is 37 + 45?").text, "37 + 45 = 82.");
}

TEST_F(Answers, ADrainedAgentGoesOnWithWhatRunsAndTakesNothingNew) {
  client::Connection connection(a.socket_path());
  begin_endless(connection);
  const auto drained = a.ask({.id = 1, .body = wire::DrainRequest{true}});
  ASSERT_TRUE(drained && drained->status);
  EXPECT_TRUE(drained->status->draining);
  EXPECT_EQ(drained->status->requests, 1U);
  EXPECT_EQ(ask(a, "What is 37 + 45?").status, DS4_BUSY);
  EXPECT_EQ(ask(b, "What is 37 + 45?").text, "37 + 45 = 82.");
  const auto event = connection.next(kPatience);
  EXPECT_TRUE(event && client::is_token(*event));
  ASSERT_TRUE(a.ask({.id = 2, .body = wire::DrainRequest{false}}));
  EXPECT_EQ(ask(a, "What is 37 + 45?").text, "37 + 45 = 82.");
}

TEST_F(Answers, AStoppingAgentTellsItsClients) {
  client::Connection connection(b.socket_path());
  begin_endless(connection);
  EXPECT_EQ(b.stop(), 0);
  EXPECT_EQ(take_answer(connection).status, DS4_AGENT_SHUTDOWN);
  EXPECT_TRUE(holds_no_session(a));
}

TEST_F(Answers, AStageThatDiesEndsThemWithAnErrorThatMayBeTriedAgain) {
  client::Connection connection(a.socket_path());
  begin_endless(connection);
  b.kill_hard();
  const Answer answer = take_answer(connection);
  EXPECT_EQ(answer.status, DS4_PEER_LOST);
  b.start();
  ASSERT_TRUE(b.becomes(NodeState::kReady));
  ASSERT_TRUE(a.becomes(NodeState::kReady));
  EXPECT_EQ(ask(a, "What is 37 + 45?").text, "37 + 45 = 82.");
  EXPECT_TRUE(holds_no_session(a));
  EXPECT_TRUE(holds_no_session(b));
}

TEST_F(Answers, AFastRestartOfAStageDoesNotLeaveThemHanging) {
  client::Connection connection(a.socket_path());
  begin_endless(connection);
  b.kill_hard();
  b.start();  // well within link.timeout_ms, on most machines
  EXPECT_EQ(take_answer(connection).status, DS4_PEER_LOST);
  ASSERT_TRUE(b.becomes(NodeState::kReady));
  EXPECT_TRUE(holds_no_session(a));
}

TEST_F(Answers, TheSessionsOfADeadEntryAreClosedWhenItIsBack) {
  {
    client::Connection connection(b.socket_path());
    begin_endless(connection);
    b.kill_hard();
  }
  b.start();
  ASSERT_TRUE(b.becomes(NodeState::kReady));
  EXPECT_TRUE(holds_no_session(a));
}

TEST_F(Answers, AKeptSessionGoesOnAfterAStageLostItsCache) {
  client::Connection connection(a.socket_path());
  client::Request request;
  const auto first = connection.chat("What is the capital of France?");
  request.prompt = first;
  request.keep_session = true;
  connection.submit(request);
  std::uint64_t session = 0;
  while (const auto event = connection.next(kPatience)) {
    if (!client::is_final(*event)) continue;
    session = event->session;
    break;
  }
  ASSERT_NE(session, 0U);
  b.kill_hard();
  b.start();
  ASSERT_TRUE(b.becomes(NodeState::kReady));  // by a canary through its new process
  const auto second = connection.chat("What is 37 + 45?");
  request.prompt = second;
  request.session = session;
  request.keep_session = false;
  connection.submit(request);
  EXPECT_EQ(take_answer(connection).status, DS4_OK_STOP);
  EXPECT_TRUE(holds_no_session(a));
}

TEST_F(Answers, AnUnassignedAgentSaysThatItIsNotReady) {
  AgentProcess lonely({.name = "c"});
  EXPECT_EQ(ask(lonely, "Hello?").status, DS4_ROUTE_NOT_READY);
}

}  // namespace
}  // namespace ds4::test
