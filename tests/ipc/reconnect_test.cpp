// The library when its agent goes and another comes: in one process, with an agent that answers
// without a model. What only real agents can show is in restart_test.cpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <optional>

#include "ipc/client/ds4.hpp"
#include "tests/ipc/fake_agent.h"

namespace ds4::ipc::testing {
namespace {

using client::Connection;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Tokens = std::vector<ds4_token>;

ModelCard card_of(std::uint64_t fingerprint) {
  ModelCard card = small_card();
  card.fingerprint = fingerprint;
  return card;
}

class Reconnect : public ::testing::Test {
 protected:
  void start(std::uint64_t fingerprint = 1) {
    agent.reset();
    agent.emplace(config_at(place.path()), card_of(fingerprint));
    agent->handler().on_generate = [this](ClientId, const GenerateRequest& request) {
      const std::lock_guard lock(mutex);
      prompts.push_back(request.prompt);
    };
  }
  Connection connect(std::uint32_t reconnect_ms = 0) {
    ds4_connect_options options = DS4_CONNECT_OPTIONS_INIT;
    options.reconnect_ms = reconnect_ms;
    return Connection(place.path(), options);
  }
  static client::Request request(std::span<const ds4_token> tokens, std::uint32_t max_tokens) {
    client::Request r;
    r.prompt = tokens;
    r.max_tokens = max_tokens;
    r.stop_at_eos = false;
    return r;
  }
  static ds4_event final_of(Connection& connection, std::uint64_t id) {
    while (const auto event = connection.next(std::chrono::seconds(20))) {
      if (event->request == id && client::is_final(*event)) return *event;
    }
    ADD_FAILURE() << "no final";
    return {};
  }
  Tokens last_prompt() {
    const std::lock_guard lock(mutex);
    return prompts.empty() ? Tokens{} : prompts.back();
  }

  SocketPlace place;
  std::mutex mutex;
  std::vector<Tokens> prompts;  // as agents got them
  std::optional<FakeAgent> agent;
  const Tokens prompt = {1, 2, 3};
};

TEST_F(Reconnect, AnIdleConnectionFindsTheNextAgent) {
  start();
  Connection connection = connect();
  start();
  EXPECT_EQ(final_of(connection, connection.submit(request(prompt, 2))).status, DS4_OK_LENGTH);
  EXPECT_EQ(connection.info().reconnects, 1U);
  EXPECT_EQ(connection.info().connected, 1U);
}

TEST_F(Reconnect, ARequestInFlightEndsAsRetryableAndTheSameOneSucceedsThen) {
  start();
  Connection connection = connect();
  const auto lost = connection.submit(request(prompt, 0));
  ASSERT_TRUE(connection.next(std::chrono::seconds(20)));
  start();
  const ds4_event final = final_of(connection, lost);
  EXPECT_EQ(final.status, DS4_AGENT_SHUTDOWN);
  EXPECT_TRUE(ds4_is_retryable(final.status));
  const auto again = connection.submit(request(prompt, 3));
  EXPECT_GT(again, lost) << "ids are never used twice";
  EXPECT_EQ(final_of(connection, again).generated_tokens, 3U);
}

TEST_F(Reconnect, LooksNoLongerThanItMay) {
  start();
  Connection connection = connect(100);
  agent.reset();
  try {
    connection.submit(request(prompt, 1));
    ADD_FAILURE() << "there is no agent";
  } catch (const client::Error& error) {
    EXPECT_TRUE(error.retryable());
  }
  EXPECT_EQ(connection.info().connected, 0U);
  start();
  EXPECT_EQ(final_of(connection, connection.submit(request(prompt, 1))).status, DS4_OK_LENGTH)
      << "what was given up may be tried again";
}

TEST_F(Reconnect, AKeptSessionGoesOnWithWhatItHeldAndUnderItsName) {
  start();
  Connection connection = connect();
  client::Request keeping = request(prompt, 2);
  keeping.keep_session = true;
  const ds4_event first = final_of(connection, connection.submit(keeping));
  ASSERT_NE(first.session, 0U);
  start();
  const Tokens more = {50};
  client::Request next = request(more, 1);
  next.session = first.session;
  next.keep_session = true;
  const ds4_event second = final_of(connection, connection.submit(next));
  EXPECT_EQ(second.status, DS4_OK_LENGTH);
  EXPECT_EQ(second.session, first.session);
  EXPECT_EQ(second.prompt_tokens, 1U) << "what the library shows again is not the program's";
  EXPECT_THAT(last_prompt(), ElementsAre(1, 2, 3, 6, 7, 50)) << "prompt, answer, and what is new";
}

TEST_F(Reconnect, SessionsThatNoAgentHoldsAreForkedAndClosedWithoutOne) {
  start();
  Connection connection = connect();
  client::Request keeping = request(prompt, 1);
  keeping.keep_session = true;
  const ds4_event kept = final_of(connection, connection.submit(keeping));
  const auto lost = connection.submit(request(prompt, 0));
  ASSERT_TRUE(connection.next(std::chrono::seconds(20)));
  agent.reset();
  EXPECT_EQ(final_of(connection, lost).status, DS4_AGENT_SHUTDOWN);
  EXPECT_THROW(connection.next(), client::Error);

  const ds4_event forked = final_of(connection, connection.fork_session(kept.session));
  EXPECT_EQ(forked.status, DS4_OK_FORKED);
  EXPECT_NE(forked.session, kept.session);
  EXPECT_EQ(final_of(connection, connection.close_session(kept.session)).status, DS4_OK_CLOSED);
  start();
  const Tokens more = {9};
  client::Request next = request(more, 1);
  next.session = forked.session;
  EXPECT_EQ(final_of(connection, connection.submit(next)).status, DS4_OK_LENGTH);
  EXPECT_THAT(last_prompt(), ElementsAre(1, 2, 3, 6, 9));
}

TEST_F(Reconnect, AResumedRequestShowsTheNewAgentWhatWasDeliveredAndAsksForTheRest) {
  start();
  Connection connection = connect();
  client::Request endless = request(prompt, 1'000'000);
  endless.resume = true;
  const auto id = connection.submit(endless);
  std::uint32_t delivered = 0;
  while (delivered < 3) delivered += client::is_token(*connection.next(std::chrono::seconds(20)));
  start();
  // What the former agent completed is delivered first; positions go on without a gap.
  std::uint32_t position = 3 + delivered;
  while (connection.info().reconnects == 0 || last_prompt().size() == 3) {
    const auto event = connection.next(std::chrono::seconds(20));
    ASSERT_TRUE(event && client::is_token(*event) && event->request == id);
    EXPECT_EQ(event->position, position++);
  }
  const auto event = connection.next(std::chrono::seconds(20));
  ASSERT_TRUE(event && client::is_token(*event));
  EXPECT_EQ(event->position, position);
  connection.cancel(id);
  const ds4_event final = final_of(connection, id);
  EXPECT_EQ(final.status, DS4_CANCELLED);
  EXPECT_EQ(final.prompt_tokens, 3U);
  EXPECT_GT(final.generated_tokens, delivered);
}

TEST_F(Reconnect, AResumedRequestGivesUpInTimeAndCanBeCancelledBefore) {
  start();
  Connection connection = connect(300);
  client::Request endless = request(prompt, 0);
  endless.resume = true;
  const auto a = connection.submit(endless);
  const auto b = connection.submit(endless);
  ASSERT_TRUE(connection.next(std::chrono::seconds(20)));
  agent.reset();
  while (connection.info().connected != 0) connection.next(std::chrono::milliseconds(1));
  connection.cancel(a);
  EXPECT_EQ(final_of(connection, a).status, DS4_CANCELLED);
  EXPECT_EQ(final_of(connection, b).status, DS4_AGENT_SHUTDOWN);
}

TEST_F(Reconnect, ACancelWhileTheAgentIsAwayKeepsWhatWasDelivered) {
  start();
  Connection connection = connect();
  client::Request endless = request(prompt, 0);
  endless.resume = true;
  endless.keep_session = true;
  const auto id = connection.submit(endless);
  Tokens delivered;
  while (delivered.size() < 3)
    delivered.push_back(connection.next(std::chrono::seconds(20))->token);
  agent.reset();
  while (connection.info().connected != 0) {
    const auto event = connection.next(std::chrono::milliseconds(1));
    if (event && client::is_token(*event)) delivered.push_back(event->token);
  }
  connection.cancel(id);
  connection.cancel(id);
  const ds4_event final = final_of(connection, id);
  EXPECT_EQ(final.status, DS4_CANCELLED);
  EXPECT_EQ(final.generated_tokens, delivered.size());
  ASSERT_NE(final.session, 0U);
  start();
  client::Request next = request(prompt, 1);
  next.session = final.session;
  EXPECT_EQ(final_of(connection, connection.submit(next)).status, DS4_OK_LENGTH);
  Tokens expected = prompt;
  expected.insert(expected.end(), delivered.begin(), delivered.end());
  expected.insert(expected.end(), prompt.begin(), prompt.end());
  EXPECT_EQ(last_prompt(), expected);
}

TEST_F(Reconnect, AnotherModelIsSaidOnceAndEndsWhatBelongedToTheFormer) {
  start(1);
  Connection connection = connect();
  client::Request keeping = request(prompt, 1);
  keeping.keep_session = true;
  ASSERT_NE(final_of(connection, connection.submit(keeping)).session, 0U);
  client::Request endless = request(prompt, 0);
  endless.resume = true;
  const auto id = connection.submit(endless);
  ASSERT_TRUE(connection.next(std::chrono::seconds(20)));
  start(2);
  EXPECT_EQ(final_of(connection, id).status, DS4_MODEL_CHANGED);
  try {
    connection.submit(request(prompt, 1));
    ADD_FAILURE() << "tokens of another model were taken";
  } catch (const client::Error& error) {
    EXPECT_EQ(error.status(), DS4_MODEL_CHANGED);
    EXPECT_FALSE(error.retryable());
    EXPECT_THAT(error.what(), HasSubstr("another model"));
  }
  EXPECT_EQ(final_of(connection, connection.submit(request(prompt, 1))).status, DS4_OK_LENGTH);
  EXPECT_EQ(connection.info().fingerprint, 2U);
  EXPECT_EQ(agent->handler().requests, 1) << "the new agent was shown tokens of the other model";
}

TEST_F(Reconnect, AnotherModelEndsTheSessionsThatAreForkedOrClosedThen) {
  start(1);
  Connection connection = connect();
  client::Request keeping = request(prompt, 1);
  keeping.keep_session = true;
  const ds4_event kept = final_of(connection, connection.submit(keeping));
  // Parked, so that the library looks for the next agent while it knows the session.
  keeping.session = kept.session;
  keeping.resume = true;
  keeping.max_tokens = 0;
  const auto parked = connection.submit(keeping);
  ASSERT_TRUE(connection.next(std::chrono::seconds(20)));
  agent.reset();
  while (connection.info().connected != 0) connection.next(std::chrono::milliseconds(1));
  const auto status_of = [](auto call) -> ds4_status {
    try {
      call();
      return DS4_OK;
    } catch (const client::Error& error) {
      return error.status();
    }
  };
  EXPECT_EQ(status_of([&] { connection.close_session(kept.session); }), DS4_BUSY);
  EXPECT_EQ(status_of([&] { connection.fork_session(kept.session); }), DS4_BUSY);
  start(2);
  // A session nobody knows makes the library connect.
  const auto closing = connection.close_session(4711);
  EXPECT_EQ(final_of(connection, parked).status, DS4_MODEL_CHANGED);
  EXPECT_EQ(final_of(connection, closing).status, DS4_UNKNOWN_SESSION);
  EXPECT_EQ(status_of([&] { connection.submit(keeping); }), DS4_MODEL_CHANGED);
}

TEST_F(Reconnect, TheEventDescriptorStaysAndTellsWhenARequestGoesOn) {
  start();
  Connection connection = connect();
  const int fd = connection.event_fd();
  ASSERT_GE(fd, 0);
  client::Request endless = request(prompt, 0);
  endless.resume = true;
  connection.submit(endless);
  ASSERT_TRUE(connection.next(std::chrono::seconds(20)));
  start();
  std::uint32_t tokens_after = 0;
  ASSERT_TRUE(eventually([&] {
    ds4_event event;
    while (ds4_next(connection.get(), &event, 0) == DS4_OK && tokens_after < 10)
      if (connection.info().reconnects > 0) ++tokens_after;
    if (tokens_after >= 10) return true;
    pollfd waiting = {fd, POLLIN, 0};
    EXPECT_EQ(::poll(&waiting, 1, 20'000), 1) << "nothing wakes the program";
    return false;
  }));
  EXPECT_EQ(connection.event_fd(), fd);
}

}  // namespace
}  // namespace ds4::ipc::testing
