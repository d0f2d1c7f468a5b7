// Programs and agents of different ages: each may be a minor version older than the other, and the
// structs of a program may be those of an older API.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <optional>

#include "ipc/client/ds4.hpp"
#include "ipc/packet.h"
#include "ipc/ring.h"
#include "tests/ipc/fake_agent.h"
#include "tests/ipc/former_agent.h"

namespace ds4::ipc::testing {
namespace {

using client::Connection;
using ::testing::ElementsAre;
using Tokens = std::vector<ds4_token>;

class Versions : public ::testing::Test {
 protected:
  struct Heard {
    std::uint64_t session = 0;
    Tokens prompt;
  };

  void listen_to(FakeHandler& handler) {
    handler.on_generate = [this](ClientId, const GenerateRequest& request) {
      const std::lock_guard lock(mutex);
      heard.push_back({request.session_id, request.prompt});
    };
  }
  Heard last_heard() {
    const std::lock_guard lock(mutex);
    return heard.empty() ? Heard{} : heard.back();
  }
  /// One token after `prompt`; the session is kept.
  static ds4_event ask(Connection& connection, const Tokens& prompt, std::uint64_t session = 0) {
    client::Request request;
    request.prompt = prompt;
    request.session = session;
    request.max_tokens = 1;
    request.keep_session = true;
    request.stop_at_eos = false;
    return final_of(connection, connection.submit(request));
  }
  static ds4_event final_of(Connection& connection, std::uint64_t id) {
    while (const auto event = connection.next(std::chrono::seconds(20)))
      if (event->request == id && client::is_final(*event)) return *event;
    ADD_FAILURE() << "no final";
    return {};
  }

  SocketPlace place;
  std::mutex mutex;
  std::vector<Heard> heard;  // by agents
};

// ---- The protocol -----------------------------------------------------------------------------

TEST_F(Versions, AProgramOfTheFormerMinorVersionWorks) {
  FakeAgent agent(config_at(place.path()));
  const UniqueFd fd = connect_raw(place.path());
  Hello hello;
  hello.minor = 0;
  ASSERT_TRUE(send_packet(fd.get(), std::as_bytes(std::span(&hello, 1))));
  std::array<std::byte, sizeof(Welcome)> buffer;
  std::optional<Packet> packet;
  ASSERT_TRUE(eventually([&] {
    auto got = receive_packet(fd.get(), buffer, kMaxPacketFds);
    if (!got || !*got) return false;
    packet = std::move(**got);
    return true;
  }));
  Welcome welcome;
  std::memcpy(&welcome, buffer.data(), sizeof(welcome));
  ASSERT_EQ(welcome.status, 0);
  EXPECT_EQ(welcome.minor, 0) << "both speak the smaller";
  EXPECT_EQ(welcome.fingerprint, 0U) << "bytes that 1.0 reserves are zero";
  auto region = Region::open(packet->fds[0].get(), welcome.region_bytes);
  ASSERT_TRUE(region);
  // A request as 1.0 has it.
  RingProducer<SubmissionEntry> submissions(region->submissions());
  RingConsumer<CompletionEntry> completions(region->completions());
  SubmissionEntry entry;
  entry.op = static_cast<std::uint16_t>(Op::kGenerate);
  entry.request_id = 1;
  entry.prompt_tokens = 1;
  entry.max_tokens = 1;
  region->arena()[0] = 5;
  submissions.push(entry);
  submissions.publish_ordered();
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(packet->fds[1].get(), &one, sizeof(one)), 8);
  CompletionEntry completion;
  ASSERT_TRUE(eventually([&] { return completions.pop(completion); }));
  EXPECT_EQ(completion.kind, static_cast<std::uint16_t>(Kind::kToken));
  EXPECT_EQ(completion.body_as<TokenBody>().token, 5);
}

TEST_F(Versions, AFormerAgentIsToldASessionsTokensInsteadOfAFork) {
  FormerAgent agent(place.path());
  listen_to(agent.handler());
  Connection connection(place.path());
  EXPECT_EQ(connection.info().protocol_minor, 0U);
  EXPECT_EQ(connection.info().fingerprint, 0U);
  const ds4_event first = ask(connection, {1, 2, 3});
  EXPECT_EQ(first.status, DS4_OK_LENGTH);
  const ds4_event forked = final_of(connection, connection.fork_session(first.session));
  ASSERT_EQ(forked.status, DS4_OK_FORKED);
  EXPECT_NE(forked.session, first.session);
  EXPECT_EQ(agent.handler().forks, 0) << "1.0 knows no such operation";

  const ds4_event branch = ask(connection, {9}, forked.session);
  EXPECT_EQ(branch.session, forked.session);
  EXPECT_EQ(branch.prompt_tokens, 1U);
  EXPECT_EQ(last_heard().session, 0U) << "to the agent it is a new one";
  EXPECT_THAT(last_heard().prompt, ElementsAre(1, 2, 3, 6, 9));
  ask(connection, {8}, first.session);
  EXPECT_EQ(last_heard().session, 77U);
  EXPECT_THAT(last_heard().prompt, ElementsAre(8)) << "the source goes on where it is";
}

TEST_F(Versions, AForkThatAFormerAgentNeverHeardOfIsClosedWithoutIt) {
  FormerAgent agent(place.path());
  Connection connection(place.path());
  const ds4_event first = ask(connection, {1});
  const ds4_event forked = final_of(connection, connection.fork_session(first.session));
  const int before = agent.handler().requests;
  EXPECT_EQ(final_of(connection, connection.close_session(forked.session)).status, DS4_OK_CLOSED);
  EXPECT_EQ(agent.handler().requests, before);
  EXPECT_EQ(final_of(connection, connection.close_session(first.session)).status, DS4_OK_CLOSED);
  EXPECT_EQ(agent.handler().requests, before + 1);
}

TEST_F(Versions, AForkOfASessionThatAFormerAgentIsContinuingIsBusy) {
  FormerAgent agent(place.path());
  Connection connection(place.path());
  const ds4_event first = ask(connection, {1});
  const Tokens prompt = {2};
  client::Request endless;
  endless.prompt = prompt;
  endless.session = first.session;
  endless.stop_at_eos = false;
  connection.submit(endless);
  try {
    connection.fork_session(first.session);
    ADD_FAILURE() << "what is copied would not be what the source holds";
  } catch (const client::Error& error) {
    EXPECT_EQ(error.status(), DS4_BUSY);
  }
}

TEST_F(Versions, ThePresentAgentCopiesASessionItself) {
  FakeAgent agent(config_at(place.path()));
  listen_to(agent.handler());
  Connection connection(place.path());
  EXPECT_EQ(connection.info().protocol_minor, kMinorVersion);
  const ds4_event first = ask(connection, {1, 2, 3});
  const ds4_event forked = final_of(connection, connection.fork_session(first.session));
  EXPECT_EQ(forked.session, 78U);
  EXPECT_EQ(agent.handler().forks, 1);
  ask(connection, {9}, forked.session);
  EXPECT_EQ(last_heard().session, 78U);
  EXPECT_THAT(last_heard().prompt, ElementsAre(9));
}

TEST_F(Versions, AConnectionSurvivesAnAgentsDowngradeAndUpgrade) {
  ModelCard card = small_card();
  card.fingerprint = 7;
  auto present = std::make_unique<FakeAgent>(config_at(place.path()), card);
  Connection connection(place.path());
  const ds4_event first = ask(connection, {1, 2, 3});
  present.reset();

  auto former = std::make_unique<FormerAgent>(place.path(), card);
  listen_to(former->handler());
  const ds4_event second = ask(connection, {4}, first.session);
  EXPECT_EQ(second.session, first.session);
  EXPECT_THAT(last_heard().prompt, ElementsAre(1, 2, 3, 6, 4)) << "the model is known by its name";
  EXPECT_EQ(connection.info().protocol_minor, 0U);
  former.reset();

  present = std::make_unique<FakeAgent>(config_at(place.path()), card);
  listen_to(present->handler());
  EXPECT_EQ(ask(connection, {5}, first.session).status, DS4_OK_LENGTH);
  EXPECT_THAT(last_heard().prompt, ElementsAre(1, 2, 3, 6, 4, 16, 5));
  EXPECT_EQ(connection.info().fingerprint, 7U);
  EXPECT_EQ(connection.info().reconnects, 2U);
}

// ---- The API ----------------------------------------------------------------------------------

// As a program has them that was compiled with DS4_API_VERSION 1.
struct FormerOptions {
  std::uint32_t struct_bytes = sizeof(FormerOptions);
  std::uint32_t timeout_ms = 0;
  const char* name = nullptr;
  std::uint32_t submission_entries = 0;
  std::uint32_t completion_entries = 0;
  std::uint32_t arena_tokens = 0;
  std::uint32_t spin_us = 0;
};
struct FormerInfo {
  std::uint32_t struct_bytes = sizeof(FormerInfo);
  std::uint32_t numbers[7] = {};
  ds4_token bos = 0;
  ds4_token eos = 0;
  std::uint16_t protocol_major = 0;
  std::uint16_t protocol_minor = 0;
  char model[128] = {};
};
struct FormerRequest {
  std::uint32_t struct_bytes = sizeof(FormerRequest);
  std::uint32_t flags = 0;
  std::uint64_t session = 0;
  const ds4_token* prompt = nullptr;
  std::size_t prompt_tokens = 0;
  const ds4_token* stop = nullptr;
  std::size_t stop_tokens = 0;
  std::uint32_t max_tokens = 0;
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  std::uint32_t top_k = 0;
  std::uint32_t reserved = 0;
  std::uint64_t seed = 0;
};

TEST_F(Versions, StructsOfTheFirstApiAreTaken) {
  FakeAgent agent(config_at(place.path()));
  FormerOptions options;
  ds4_client* client = nullptr;
  ASSERT_EQ(ds4_connect(place.path().c_str(),
                        reinterpret_cast<const ds4_connect_options*>(&options), &client),
            DS4_OK)
      << ds4_last_error();
  const ds4_token prompt[] = {1, 2, 3};
  FormerRequest request;
  request.prompt = prompt;
  request.prompt_tokens = 3;
  request.max_tokens = 1;
  std::uint64_t id = 0;
  EXPECT_EQ(ds4_submit(client, reinterpret_cast<const ds4_request*>(&request), &id), DS4_OK)
      << ds4_last_error();
  ds4_event event = {};
  EXPECT_EQ(ds4_next(client, &event, 20'000), DS4_OK);
  EXPECT_EQ(event.token, 6);

  struct {
    FormerInfo info;
    std::array<std::uint8_t, 64> behind = {};
  } memory;
  memory.behind.fill(0xaa);
  EXPECT_EQ(ds4_get_info(client, reinterpret_cast<ds4_info*>(&memory.info)), DS4_OK)
      << ds4_last_error();
  EXPECT_STREQ(memory.info.model, "fake");
  EXPECT_EQ(memory.info.protocol_major, kMajorVersion);
  EXPECT_EQ(memory.info.struct_bytes, sizeof(FormerInfo));
  EXPECT_THAT(memory.behind, ::testing::Each(0xaa)) << "nothing beyond what the program has";
  ds4_close(client);
}

TEST_F(Versions, StructsOfALaterApiAreTakenAsFarAsTheyAreKnown) {
  FakeAgent agent(config_at(place.path()));
  Connection connection(place.path());
  struct {
    ds4_info info = DS4_INFO_INIT;
    std::array<std::uint8_t, 64> more = {};
  } memory;
  memory.info.struct_bytes = sizeof(memory);
  memory.more.fill(0xaa);
  EXPECT_EQ(ds4_get_info(connection.get(), &memory.info), DS4_OK) << ds4_last_error();
  EXPECT_EQ(memory.info.connected, 1U);
  EXPECT_THAT(memory.more, ::testing::Each(0xaa));
}

}  // namespace
}  // namespace ds4::ipc::testing
