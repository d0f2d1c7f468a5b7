// The client library against a server in the same process: what programs see.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <csignal>
#include <cstring>

#include "ipc/client/ds4.hpp"
#include "ipc/packet.h"
#include "tests/ipc/fake_agent.h"

namespace ds4::ipc::testing {
namespace {

using client::Connection;
using ::testing::HasSubstr;

/// Events until the final of `id`; those of other requests are kept too.
std::vector<ds4_event> until_final(Connection& connection, std::uint64_t id) {
  std::vector<ds4_event> events;
  for (;;) {
    const auto event = connection.next(std::chrono::seconds(20));
    if (!event) {
      ADD_FAILURE() << "no event within 20 seconds";
      return events;
    }
    events.push_back(*event);
    if (event->request == id && client::is_final(*event)) return events;
  }
}

std::vector<ds4_token> tokens_of(const std::vector<ds4_event>& events, std::uint64_t id) {
  std::vector<ds4_token> tokens;
  for (const auto& event : events)
    if (event.request == id && client::is_token(event)) tokens.push_back(event.token);
  return tokens;
}

class ClientTest : public ::testing::Test {
 protected:
  SocketPlace place;
  FakeAgent agent{config_at(place.path())};

  client::Request request(std::span<const ds4_token> tokens, std::uint32_t max_tokens) {
    client::Request r;
    r.prompt = tokens;
    r.max_tokens = max_tokens;
    r.stop_at_eos = false;
    return r;
  }
  const std::vector<ds4_token> prompt = {1, 2, 3};
};

TEST_F(ClientTest, KnowsWhomItTalksTo) {
  Connection connection(place.path());
  const ds4_info info = connection.info();
  EXPECT_STREQ(info.model, "fake");
  EXPECT_EQ(info.vocabulary, kVocabulary);
  EXPECT_EQ(info.context, 100'000U);
  EXPECT_EQ(info.route_state, static_cast<std::uint32_t>(DS4_ROUTE_READY));
  EXPECT_EQ(info.has_text, 0U);
  EXPECT_EQ(info.eos, -1);
  EXPECT_EQ(info.protocol_major, kMajorVersion);
}

TEST_F(ClientTest, AnswersComeInOrderWithPositions) {
  Connection connection(place.path());
  client::Request r = request(prompt, 5);
  r.logprobs = true;
  r.progress = true;
  const auto id = connection.submit(r);
  const auto events = until_final(connection, id);
  ASSERT_EQ(events.size(), 7U);
  EXPECT_EQ(events[0].kind, static_cast<std::uint32_t>(DS4_EVENT_PROGRESS));
  EXPECT_EQ(events[0].done, 3U);
  for (std::uint32_t i = 0; i < 5; ++i) {
    EXPECT_EQ(events[i + 1].token, static_cast<ds4_token>(6 + i));
    EXPECT_EQ(events[i + 1].position, 3 + i);
    EXPECT_EQ(events[i + 1].logprob, -0.5F);
  }
  EXPECT_EQ(events[6].status, DS4_OK_LENGTH);
  EXPECT_EQ(events[6].generated_tokens, 5U);
  EXPECT_EQ(events[6].prompt_tokens, 3U);
  EXPECT_EQ(events[6].stop_token, -1);
  EXPECT_EQ(connection.info().requests, 0U);
}

TEST_F(ClientTest, StopTokensEndTheAnswer) {
  Connection connection(place.path());
  const std::vector<ds4_token> stop = {500, 9};
  client::Request r = request(prompt, 100);
  r.stop = stop;
  const auto id = connection.submit(r);
  const auto events = until_final(connection, id);
  EXPECT_EQ(tokens_of(events, id), (std::vector<ds4_token>{6, 7, 8}));
  EXPECT_EQ(events.back().status, DS4_OK_STOP);
  EXPECT_EQ(events.back().stop_token, 9);
}

TEST_F(ClientTest, ManyTokensThroughASmallRing) {
  ds4_connect_options options = DS4_CONNECT_OPTIONS_INIT;
  options.completion_entries = 8;
  Connection connection(place.path(), options);
  const auto id = connection.submit(request(prompt, 5000));
  const auto tokens = tokens_of(until_final(connection, id), id);
  ASSERT_EQ(tokens.size(), 5000U);
  for (std::size_t i = 0; i < tokens.size(); ++i)
    ASSERT_EQ(tokens[i], static_cast<ds4_token>((6 + i) % kVocabulary));
  EXPECT_GT(agent.handler().spaces, 0) << "the ring was full now and then";
}

TEST_F(ClientTest, SpinningGivesTheSameAnswers) {
  ds4_connect_options options = DS4_CONNECT_OPTIONS_INIT;
  options.spin_us = 50;
  Connection connection(place.path(), options);
  for (int i = 0; i < 20; ++i) {
    const auto id = connection.submit(request(prompt, 50));
    EXPECT_EQ(tokens_of(until_final(connection, id), id).size(), 50U);
  }
}

TEST_F(ClientTest, APromptFarBeyondTheArenaArrivesWhole) {
  ds4_connect_options options = DS4_CONNECT_OPTIONS_INIT;
  options.arena_tokens = 1024;
  Connection connection(place.path(), options);
  std::vector<std::int32_t> seen;
  agent.with([&](Server&) {
    agent.handler().on_generate = [&](ClientId, const GenerateRequest& r) { seen = r.prompt; };
  });
  std::vector<ds4_token> prompt_long(100'000);
  for (std::size_t i = 0; i < prompt_long.size(); ++i)
    prompt_long[i] = static_cast<ds4_token>(i * 7 % kVocabulary);
  const std::vector<ds4_token> stop = {1, 2, 3, 4, 5, 6, 7, 8};
  client::Request r = request(prompt_long, 1);
  r.stop = stop;
  const auto id = connection.submit(r);
  const auto small = connection.submit(request(prompt, 1));  // queues behind it
  until_final(connection, id);
  until_final(connection, small);
  agent.with([&](Server&) { agent.handler().on_generate = nullptr; });
  agent.with([&](Server&) {});
  EXPECT_EQ(seen.size(), prompt.size()) << "the small one came last";
  EXPECT_EQ(agent.handler().requests, 2);
}

TEST_F(ClientTest, PromptTokensKeepTheirOrderAcrossParts) {
  ds4_connect_options options = DS4_CONNECT_OPTIONS_INIT;
  options.arena_tokens = 1024;
  Connection connection(place.path(), options);
  std::vector<std::int32_t> seen;
  agent.with([&](Server&) {
    agent.handler().on_generate = [&](ClientId, const GenerateRequest& r) { seen = r.prompt; };
  });
  for (const std::size_t size : {1U, 511U, 512U, 513U, 1023U, 1024U, 1025U, 5000U}) {
    std::vector<ds4_token> p(size);
    for (std::size_t i = 0; i < size; ++i) p[i] = static_cast<ds4_token>(i * 31 % kVocabulary);
    until_final(connection, connection.submit(request(p, 1)));
    agent.with([&](Server&) { EXPECT_EQ(seen, p) << size; });
  }
}

TEST_F(ClientTest, SeveralRequestsInFlightDoNotMix) {
  Connection connection(place.path());
  std::vector<std::uint64_t> ids;
  std::vector<std::vector<ds4_token>> prompts;
  for (ds4_token i = 0; i < 16; ++i) prompts.push_back({i * 50});
  for (const auto& p : prompts) ids.push_back(connection.submit(request(p, 100)));
  EXPECT_EQ(connection.info().requests, 16U);
  std::vector<ds4_event> all;
  for (std::size_t finals = 0; finals < ids.size();) {
    const auto event = connection.next(std::chrono::seconds(20));
    ASSERT_TRUE(event);
    all.push_back(*event);
    finals += client::is_final(*event) ? 1 : 0;
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto tokens = tokens_of(all, ids[i]);
    ASSERT_EQ(tokens.size(), 100U);
    EXPECT_EQ(tokens[0], prompts[i][0]);
    EXPECT_EQ(tokens[99], (prompts[i][0] + 99) % static_cast<ds4_token>(kVocabulary));
  }
}

TEST_F(ClientTest, MoreRequestsThanAllowedAreBusyAtOnce) {
  Connection connection(place.path());
  for (int i = 0; i < 16; ++i) connection.submit(request(prompt, 0));
  try {
    connection.submit(request(prompt, 0));
    FAIL() << "the seventeenth was taken";
  } catch (const client::Error& e) {
    EXPECT_EQ(e.status(), DS4_BUSY);
    EXPECT_TRUE(e.retryable());
  }
}

TEST_F(ClientTest, CancelEndsAnEndlessAnswer) {
  Connection connection(place.path());
  const auto id = connection.submit(request(prompt, 0));
  ASSERT_TRUE(connection.next(std::chrono::seconds(20)));
  connection.cancel(id);
  connection.cancel(id);
  connection.cancel(4711);
  const auto events = until_final(connection, id);
  EXPECT_EQ(events.back().status, DS4_CANCELLED);
  connection.cancel(id);
  EXPECT_FALSE(connection.next(std::chrono::milliseconds(0)));
}

TEST_F(ClientTest, ARequestTakenBackBeforeItWasSentIsCancelledToo) {
  ds4_connect_options options = DS4_CONNECT_OPTIONS_INIT;
  options.arena_tokens = 1024;
  Connection connection(place.path(), options);
  const std::vector<ds4_token> large(50'000, 1);
  const auto first = connection.submit(request(large, 1));
  const auto second = connection.submit(request(prompt, 1));
  connection.cancel(second);
  const auto events = until_final(connection, second);
  EXPECT_EQ(events.back().status, DS4_CANCELLED);
  EXPECT_STREQ(events.back().sentence, "the request was cancelled");
  // The first: half sent, so the agent must hear of it.
  connection.cancel(first);
  const auto rest = until_final(connection, first);
  EXPECT_THAT(rest.back().status, ::testing::AnyOf(DS4_CANCELLED, DS4_OK_LENGTH));
  const auto third = connection.submit(request(prompt, 2));
  EXPECT_EQ(until_final(connection, third).back().status, DS4_OK_LENGTH);
}

TEST_F(ClientTest, ARequestThatIsTakenBackLeavesItsSessionAsItWas) {
  std::mutex mutex;
  std::vector<GenerateRequest> heard;
  agent.handler().on_generate = [&](ClientId, const GenerateRequest& request) {
    const std::lock_guard lock(mutex);
    heard.push_back(request);
  };
  ds4_connect_options options = DS4_CONNECT_OPTIONS_INIT;
  options.arena_tokens = 1024;
  Connection connection(place.path(), options);
  client::Request keeping = request(prompt, 1);
  keeping.keep_session = true;
  const auto session = until_final(connection, connection.submit(keeping)).back().session;
  ASSERT_NE(session, 0U);
  // Half sent, and not sent at all.
  const std::vector<ds4_token> large(50'000, 1);
  client::Request half = request(large, 1);
  half.session = session;
  half.keep_session = true;
  keeping.session = session;
  const auto first = connection.submit(half);
  const auto second = connection.submit(keeping);
  connection.cancel(second);
  connection.cancel(first);
  std::size_t finals = 0;
  while (finals < 2) {
    const auto event = connection.next(std::chrono::seconds(20));
    ASSERT_TRUE(event && client::is_final(*event));
    EXPECT_EQ(event->status, DS4_CANCELLED);
    EXPECT_EQ(event->session, session) << "it lives on";
    ++finals;
  }
  const auto third = connection.submit(keeping);
  EXPECT_EQ(until_final(connection, third).back().session, session);
  const std::lock_guard lock(mutex);
  ASSERT_EQ(heard.size(), 2U);
  EXPECT_EQ(heard.back().session_id, 77U);
}

TEST_F(ClientTest, SessionsAreNamedAndClosed) {
  Connection connection(place.path());
  client::Request r = request(prompt, 1);
  r.keep_session = true;
  const auto id = connection.submit(r);
  const auto session = until_final(connection, id).back().session;
  EXPECT_EQ(session, 77U);
  auto closing = connection.close_session(session);
  EXPECT_EQ(until_final(connection, closing).back().status, DS4_OK_CLOSED);
  closing = connection.close_session(5);
  const auto final = until_final(connection, closing).back();
  EXPECT_EQ(final.status, DS4_UNKNOWN_SESSION);
  EXPECT_STREQ(final.sentence, "there is no such session on this connection");
}

TEST_F(ClientTest, AMutedCloseDeliversNothing) {
  Connection connection(place.path());
  ASSERT_EQ(ds4_close_session(connection.get(), 77, nullptr), DS4_OK);
  const auto id = connection.submit(request(prompt, 1));
  for (const auto& event : until_final(connection, id)) EXPECT_EQ(event.request, id);
  EXPECT_EQ(connection.info().requests, 0U);
}

TEST_F(ClientTest, MistakesAreNamedWhereTheyAreMade) {
  Connection connection(place.path());
  const auto attempt = [&](auto change) {
    client::Request r = request(prompt, 1);
    change(r);
    try {
      connection.submit(r);
    } catch (const client::Error& e) {
      return std::pair(e.status(), std::string(e.what()));
    }
    return std::pair(ds4_status{DS4_OK}, std::string());
  };
  const std::vector<ds4_token> alien = {1, 5000};
  const std::vector<ds4_token> huge(100'001, 1);
  const std::vector<ds4_token> stops(9, 1);
  EXPECT_EQ(attempt([](auto& r) { r.prompt = {}; }).first, DS4_INVALID);
  EXPECT_EQ(attempt([](auto& r) { r.temperature = -1; }).first, DS4_INVALID);
  EXPECT_EQ(attempt([&](auto& r) { r.stop = stops; }).first, DS4_INVALID);
  EXPECT_EQ(attempt([&](auto& r) { r.prompt = huge; }).first, DS4_OUT_OF_RANGE);
  EXPECT_THAT(attempt([&](auto& r) { r.prompt = alien; }).second,
              HasSubstr("prompt token 1 is 5000"));
  EXPECT_EQ(attempt([](auto& r) { r.stop_at_eos = true; }).first, DS4_NO_TEXT);
  EXPECT_EQ(attempt([](auto&) {}).first, DS4_OK) << "and a refused request leaves no trace";
}

TEST_F(ClientTest, TheEventDescriptorTellsWhenToLook) {
  Connection connection(place.path());
  EXPECT_FALSE(connection.next(std::chrono::milliseconds(0)));
  pollfd waiting = {connection.event_fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&waiting, 1, 0), 0);
  const auto id = connection.submit(request(prompt, 100));
  std::size_t tokens = 0;
  bool ended = false;
  while (!ended) {
    while (const auto event = connection.next(std::chrono::milliseconds(0))) {
      tokens += client::is_token(*event) ? 1 : 0;
      ended = ended || (event->request == id && client::is_final(*event));
    }
    if (ended) break;
    waiting.revents = 0;
    ASSERT_EQ(::poll(&waiting, 1, 20'000), 1) << "a wake-up was lost";
  }
  EXPECT_EQ(tokens, 100U);
}

TEST_F(ClientTest, PollingAloneNoticesTheAgentsEnd) {
  Connection connection(place.path());
  agent.stop();
  EXPECT_TRUE(eventually([&] {
    ds4_event event;
    return ds4_next(connection.get(), &event, 0) == DS4_AGENT_SHUTDOWN;
  }));
}

TEST_F(ClientTest, ATimeoutIsNoFailure) {
  Connection connection(place.path());
  ds4_event event;
  EXPECT_EQ(ds4_next(connection.get(), &event, 0), DS4_TIMEOUT);
  EXPECT_EQ(ds4_next(connection.get(), &event, 5), DS4_TIMEOUT);
  EXPECT_FALSE(ds4_is_error(DS4_TIMEOUT));
}

TEST_F(ClientTest, SpinningEndsWithTheTimeout) {
  ds4_connect_options options = DS4_CONNECT_OPTIONS_INIT;
  options.spin_us = DS4_NEVER - 1;  // more than an hour
  Connection connection(place.path(), options);
  EXPECT_FALSE(connection.next(std::chrono::milliseconds(20)));
}

TEST_F(ClientTest, ASignalInterruptsTheWait) {
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  struct sigaction before = {};
  ::sigaction(SIGUSR1, &action, &before);
  Connection connection(place.path());
  const pthread_t self = ::pthread_self();
  std::atomic<bool> done = false;
  std::thread signaller([&] {
    while (!done) {
      ::pthread_kill(self, SIGUSR1);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  });
  ds4_event event;
  EXPECT_EQ(ds4_next(connection.get(), &event, -1), DS4_INTERRUPTED);
  done = true;
  signaller.join();
  ::sigaction(SIGUSR1, &before, nullptr);
}

// ---- Losing the agent ---------------------------------------------------------------------------

TEST_F(ClientTest, AFarewellEndsEveryRequestWithItsReason) {
  ds4_connect_options options = DS4_CONNECT_OPTIONS_INIT;
  options.reconnect_ms = DS4_NEVER;
  Connection connection(place.path(), options);
  const auto a = connection.submit(request(prompt, 0));
  const auto b = connection.submit(request(prompt, 0));
  ASSERT_TRUE(connection.next(std::chrono::seconds(20)));
  agent.with([](Server& server) { server.shut_down(Status::kAgentShutdown, "upgrading"); });
  const auto events = until_final(connection, a);
  EXPECT_EQ(events.back().status, DS4_AGENT_SHUTDOWN);
  EXPECT_STREQ(events.back().sentence, "upgrading");
  EXPECT_EQ(until_final(connection, b).back().status, DS4_AGENT_SHUTDOWN);
  EXPECT_THROW(connection.next(), client::Error) << "no hang once all is told";
  EXPECT_THROW(connection.submit(request(prompt, 1)), client::Error);
  EXPECT_EQ(connection.info().vocabulary, kVocabulary) << "what is known stays known";
}

TEST_F(ClientTest, AnAgentGoneWithoutAWordEndsEveryRequest) {
  Connection connection(place.path());
  const auto id = connection.submit(request(prompt, 0));
  ASSERT_TRUE(connection.next(std::chrono::seconds(20)));
  agent.stop();
  const auto final = until_final(connection, id).back();
  EXPECT_EQ(final.status, DS4_AGENT_SHUTDOWN);
  EXPECT_TRUE(ds4_is_retryable(final.status));
  EXPECT_THAT(final.sentence, HasSubstr("went away"));
}

TEST_F(ClientTest, WhatWasCompletedBeforeTheEndIsStillDelivered) {
  Connection connection(place.path());
  const auto id = connection.submit(request(prompt, 10));
  ASSERT_TRUE(eventually([&] { return agent.handler().requests == 1 && agent.active() == 0; }));
  agent.stop();
  const auto events = until_final(connection, id);
  EXPECT_EQ(tokens_of(events, id).size(), 10U);
  EXPECT_EQ(events.back().status, DS4_OK_LENGTH);
}

TEST_F(ClientTest, ASleepingClientWakesWhenTheAgentGoes) {
  Connection connection(place.path());
  std::thread killer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    agent.stop();
  });
  EXPECT_THROW(connection.next(), client::Error);
  killer.join();
}

// ---- Connecting ---------------------------------------------------------------------------------

ds4_status connect_status(const std::string& path) {
  ds4_client* raw = nullptr;
  const ds4_status status = ds4_connect(path.c_str(), nullptr, &raw);
  ds4_close(raw);
  return status;
}

TEST(ClientConnect, SaysWhatIsMissing) {
  SocketPlace place;
  EXPECT_EQ(connect_status(place.path()), DS4_NO_AGENT);
  EXPECT_THAT(ds4_last_error(), HasSubstr(place.path()));
  EXPECT_THAT(ds4_last_error(), HasSubstr("systemctl start"));
  EXPECT_EQ(connect_status(std::string(200, 'x')), DS4_INVALID);
  EXPECT_EQ(ds4_connect(nullptr, nullptr, nullptr), DS4_INVALID);
}

TEST(ClientConnect, TakesThePathFromTheEnvironment) {
  SocketPlace place;
  FakeAgent agent(config_at(place.path()));
  ::setenv("DS4_SOCKET", place.path().c_str(), 1);
  EXPECT_NO_THROW(Connection{});
  ::unsetenv("DS4_SOCKET");
}

TEST(ClientConnect, GivesUpOnAnAgentThatDoesNotAnswer) {
  SocketPlace place;
  const UniqueFd mute(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  place.path().copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(::bind(mute.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(mute.get(), 4), 0);
  ds4_connect_options options = DS4_CONNECT_OPTIONS_INIT;
  options.timeout_ms = 50;
  ds4_client* raw = nullptr;
  EXPECT_EQ(ds4_connect(place.path().c_str(), &options, &raw), DS4_NO_AGENT);
  EXPECT_EQ(raw, nullptr);
  EXPECT_THAT(ds4_last_error(), HasSubstr("does not answer"));
}

TEST(ClientConnect, AnAgentWithoutAModelIsNotReady) {
  SocketPlace place;
  FakeAgent agent(config_at(place.path()), ModelCard{});
  Connection connection(place.path());
  const std::vector<ds4_token> prompt = {1};
  client::Request request;
  request.prompt = prompt;
  request.stop_at_eos = false;
  try {
    connection.submit(request);
    FAIL();
  } catch (const client::Error& e) {
    EXPECT_EQ(e.status(), DS4_ROUTE_NOT_READY);
  }
  EXPECT_THROW(connection.tokenize("x"), client::Error);
}

TEST(ClientConnect, StructsWithoutTheirSizeAreRefused) {
  SocketPlace place;
  FakeAgent agent(config_at(place.path()));
  Connection connection(place.path());
  ds4_request request = DS4_REQUEST_INIT;
  request.struct_bytes = 0;
  std::uint64_t id = 0;
  EXPECT_EQ(ds4_submit(connection.get(), &request, &id), DS4_INVALID);
  EXPECT_THAT(ds4_last_error(), HasSubstr("DS4_REQUEST_INIT"));
  ds4_info info = DS4_INFO_INIT;
  info.struct_bytes = 3;
  EXPECT_EQ(ds4_get_info(connection.get(), &info), DS4_INVALID);
  request = DS4_REQUEST_INIT;
  request.prompt_tokens = 5;  // of nothing
  EXPECT_EQ(ds4_submit(connection.get(), &request, &id), DS4_INVALID);
  EXPECT_EQ(ds4_next(nullptr, nullptr, 0), DS4_INVALID);
  ds4_close(nullptr);
  ds4_decoder_free(nullptr);
}

}  // namespace
}  // namespace ds4::ipc::testing
