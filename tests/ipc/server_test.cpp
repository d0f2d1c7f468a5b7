// The server against sockets: who gets in, and what those who misbehave get.
#include "ipc/server/server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <fstream>

#include "ipc/client/dial.h"
#include "ipc/packet.h"
#include "ipc/ring.h"
#include "ipc/waker.h"
#include "tests/ipc/fake_agent.h"

namespace ds4::ipc::testing {
namespace {

using ::testing::HasSubstr;

UniqueFd connect_raw(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    return UniqueFd();
  return fd;
}

Outcome<Dialed> dial_at(const std::string& path) {
  DialOptions options;
  options.socket_path = path;
  options.name = "test";
  return dial(options);
}

/// The farewell on a socket that the agent is about to hang up.
Farewell await_farewell(int socket) {
  Farewell farewell;
  farewell.status = 0;
  eventually([&] {
    std::array<std::byte, sizeof(Farewell)> buffer;
    const auto packet = receive_packet(socket, buffer, 0);
    if (!packet || !*packet) return false;
    if ((*packet)->bytes == sizeof(Farewell))
      std::memcpy(&farewell, buffer.data(), sizeof(farewell));
    return true;
  });
  return farewell;
}

bool is_hung_up(int socket) {
  return eventually([&] {
    std::array<std::byte, 1024> buffer;
    const auto packet = receive_packet(socket, buffer, 4);
    return packet && *packet && (*packet)->bytes == 0;
  });
}

class ServerTest : public ::testing::Test {
 protected:
  SocketPlace place;
};

TEST_F(ServerTest, TheSocketBelongsToOwnerAndGroup) {
  FakeAgent agent(config_at(place.path()));
  struct stat info = {};
  ASSERT_EQ(::lstat(place.path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0660U);
  EXPECT_EQ(info.st_gid, ::getegid());
}

TEST_F(ServerTest, ItsPathGoesWithIt) {
  { FakeAgent agent(config_at(place.path())); }
  struct stat info = {};
  EXPECT_NE(::lstat(place.path().c_str(), &info), 0);
}

TEST_F(ServerTest, ReplacesADeadAgentsSocket) {
  {  // Bound and closed without being removed: what kill -9 leaves.
    UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    place.path().copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  FakeAgent agent(config_at(place.path()));
  EXPECT_TRUE(dial_at(place.path()));
}

TEST_F(ServerTest, RefusesToReplaceALivingAgentsSocket) {
  FakeAgent agent(config_at(place.path()));
  FakeHandler other;
  const auto second = Server::listen(config_at(place.path()), other);
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().message, HasSubstr("another agent is serving"));
  EXPECT_TRUE(dial_at(place.path())) << "the first one still serves";
}

TEST_F(ServerTest, RefusesToReplaceAFile) {
  { std::ofstream(place.path()) << "precious"; }
  FakeHandler handler;
  const auto server = Server::listen(config_at(place.path()), handler);
  ASSERT_FALSE(server);
  EXPECT_THAT(server.error().message, HasSubstr("is not a socket"));
  std::string content;
  std::ifstream(place.path()) >> content;
  EXPECT_EQ(content, "precious");
}

TEST_F(ServerTest, RefusesImpossiblePaths) {
  FakeHandler handler;
  EXPECT_FALSE(Server::listen(config_at(std::string(200, 'x')), handler));
  EXPECT_FALSE(Server::listen(config_at(""), handler));
  EXPECT_FALSE(Server::listen(config_at("/nonexistent-directory/socket"), handler));
  ServerConfig config = config_at(place.path());
  config.group = "no-such-group-here";
  EXPECT_FALSE(Server::listen(config, handler));
}

TEST_F(ServerTest, WelcomesWithTheModelsCard) {
  ModelCard card = small_card();
  const std::string metadata = "stands for a GGUF";
  card.metadata = std::as_bytes(std::span(metadata));
  FakeAgent agent(config_at(place.path()), card);
  const auto dialed = dial_at(place.path());
  ASSERT_TRUE(dialed) << dialed.error().sentence;
  EXPECT_EQ(text_of(dialed->welcome.model), "fake");
  EXPECT_EQ(dialed->welcome.vocabulary, kVocabulary);
  EXPECT_EQ(dialed->welcome.max_requests, 16U);
  EXPECT_EQ(dialed->welcome.route_state, static_cast<std::uint32_t>(RouteState::kReady));
  ASSERT_EQ(dialed->metadata.size(), metadata.size());
  EXPECT_EQ(std::memcmp(dialed->metadata.data(), metadata.data(), metadata.size()), 0);
}

TEST_F(ServerTest, TooManyClientsAreToldSo) {
  ServerConfig config = config_at(place.path());
  config.max_clients = 2;
  FakeAgent agent(config);
  const auto first = dial_at(place.path());
  {
    const auto second = dial_at(place.path());
    ASSERT_TRUE(first && second);
    const auto third = dial_at(place.path());
    ASSERT_FALSE(third);
    EXPECT_EQ(third.error().status, DS4_BUSY);
    EXPECT_THAT(third.error().sentence, HasSubstr("2 programs are connected"));
  }
  EXPECT_TRUE(eventually([&] { return agent.clients() == 1; }));
  EXPECT_TRUE(dial_at(place.path()));
}

TEST_F(ServerTest, OneUserCannotTakeEveryPlace) {
  ServerConfig config = config_at(place.path());
  config.max_clients_per_user = 1;
  FakeAgent agent(config);
  const auto first = dial_at(place.path());
  ASSERT_TRUE(first);
  const auto second = dial_at(place.path());
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().sentence, HasSubstr("the most for one user"));
}

TEST_F(ServerTest, AHelloOfAnotherMajorVersionIsToldBoth) {
  FakeAgent agent(config_at(place.path()));
  const UniqueFd socket = connect_raw(place.path());
  Hello hello;
  hello.major = 7;
  ASSERT_TRUE(send_packet(socket.get(), std::as_bytes(std::span(&hello, 1))));
  Welcome welcome;
  ASSERT_TRUE(eventually([&] {
    const auto packet =
        receive_packet(socket.get(), std::as_writable_bytes(std::span(&welcome, 1)), 4);
    return packet && *packet && (*packet)->bytes == sizeof(Welcome);
  }));
  EXPECT_EQ(welcome.status, static_cast<std::uint16_t>(Status::kVersion));
  EXPECT_THAT(text_of(welcome.sentence), HasSubstr("7.1"));
  EXPECT_TRUE(is_hung_up(socket.get()));
}

TEST_F(ServerTest, GarbageInsteadOfAHelloIsHungUpOn) {
  FakeAgent agent(config_at(place.path()));
  const UniqueFd socket = connect_raw(place.path());
  const std::string garbage(5000, '\xff');
  ASSERT_TRUE(send_packet(socket.get(), std::as_bytes(std::span(garbage))));
  EXPECT_TRUE(is_hung_up(socket.get()));
  EXPECT_TRUE(dial_at(place.path()));
}

TEST_F(ServerTest, StrangersWhoNeverSayHelloGiveWay) {
  FakeAgent agent(config_at(place.path()));
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 200; ++i) {
    silent.push_back(connect_raw(place.path()));
    ASSERT_TRUE(silent.back());
  }
  EXPECT_TRUE(is_hung_up(silent.front().get())) << "the oldest goes first";
  const auto honest = dial_at(place.path());
  EXPECT_TRUE(honest);
  EXPECT_EQ(agent.handler().gone, 0) << "strangers are no clients";
}

TEST_F(ServerTest, AHelloThatWaitsBehindAFloodOfStrangersIsHeard) {
  FakeHandler handler;
  const auto server = Server::listen(config_at(place.path()), handler);
  ASSERT_TRUE(server);
  const UniqueFd honest = connect_raw(place.path());
  const Hello hello;
  ASSERT_TRUE(send_packet(honest.get(), std::as_bytes(std::span(&hello, 1))));
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 300; ++i) silent.push_back(connect_raw(place.path()));
  for (int i = 0; i < 20; ++i) (*server)->run_ready();
  EXPECT_EQ((*server)->clients(), 1U);
}

TEST_F(ServerTest, DescriptorsSentByAClientNeverArrive) {
  FakeAgent agent(config_at(place.path()));
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const std::array<int, 4> fds = {null.get(), null.get(), null.get(), null.get()};
  const std::size_t before = open_descriptors();
  {
    const UniqueFd socket = connect_raw(place.path());
    const Hello hello;
    ASSERT_TRUE(send_packet(socket.get(), std::as_bytes(std::span(&hello, 1)), fds));
    EXPECT_TRUE(eventually([&] { return agent.clients() == 1; }));
    ASSERT_TRUE(send_packet(socket.get(), std::as_bytes(std::span(&hello, 1)), fds));
    EXPECT_TRUE(is_hung_up(socket.get())) << "a second packet breaks the protocol";
  }
  EXPECT_TRUE(eventually([&] { return open_descriptors() == before; }));
}

TEST_F(ServerTest, ABrokenRingIsHungUpOnWithASentence) {
  FakeAgent agent(config_at(place.path()));
  const auto honest = dial_at(place.path());
  auto dialed = dial_at(place.path());
  ASSERT_TRUE(honest && dialed);
  std::atomic_ref(dialed->region.header().submission_tail).store(1'000'000);
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(dialed->doorbell.get(), &one, sizeof(one)), 8);
  const Farewell farewell = await_farewell(dialed->socket.get());
  EXPECT_EQ(farewell.status, static_cast<std::uint16_t>(Status::kInvalid));
  EXPECT_THAT(text_of(farewell.sentence), HasSubstr("position jumped"));
  EXPECT_TRUE(eventually([&] { return agent.clients() == 1; }));
  EXPECT_EQ(agent.handler().gone, 1);
  agent.with([&](Server&) {
    ASSERT_EQ(agent.handler().complaints.size(), 1U);
    EXPECT_THAT(agent.handler().complaints[0],
                HasSubstr(fmt::format("hung up on pid {} (test) of user", ::getpid())));
  });
}

TEST_F(ServerTest, ADoorbellTurnedBlockingCannotStallTheAgent) {
  FakeAgent agent(config_at(place.path()));
  auto dialed = dial_at(place.path());
  ASSERT_TRUE(dialed);
  ASSERT_EQ(::fcntl(dialed->doorbell.get(), F_SETFL, 0), 0);
  for (int i = 0; i < 1000; ++i) {
    std::uint64_t count = 1;
    ASSERT_EQ(::write(dialed->doorbell.get(), &count, sizeof(count)), 8);
    ASSERT_EQ(::read(dialed->doorbell.get(), &count, sizeof(count)), 8);  // taken away again
  }
  EXPECT_EQ(agent.clients(), 1U) << "answers, so it does not hang in a read";
}

TEST_F(ServerTest, AClosedWakePipeKillsNobody) {
  FakeAgent agent(config_at(place.path()));
  auto dialed = dial_at(place.path());
  ASSERT_TRUE(dialed);
  dialed->wake.reset();
  Sleeper(&dialed->region.header().client_wants).want(kWantEntries);
  RingProducer<SubmissionEntry> ring(dialed->region.submissions());
  SubmissionEntry entry;
  entry.request_id = 1;
  entry.op = static_cast<std::uint16_t>(Op::kGenerate);
  entry.prompt_tokens = 1;
  entry.max_tokens = 3;
  ring.push(entry);
  ring.publish_ordered();
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(dialed->doorbell.get(), &one, sizeof(one)), 8);
  EXPECT_TRUE(eventually([&] { return agent.handler().requests == 1 && agent.active() == 0; }));
}

TEST_F(ServerTest, HangUpCancelsAndFreesEverything) {
  FakeAgent agent(config_at(place.path()));
  const std::size_t before = open_descriptors();
  for (int i = 0; i < 20; ++i) {
    auto dialed = dial_at(place.path());
    ASSERT_TRUE(dialed);
    RingProducer<SubmissionEntry> ring(dialed->region.submissions());
    SubmissionEntry entry;
    entry.request_id = 1;
    entry.op = static_cast<std::uint16_t>(Op::kGenerate);
    entry.prompt_tokens = 5;  // and no maximum: endless
    ring.push(entry);
    ring.publish_ordered();
    const std::uint64_t one = 1;
    ASSERT_EQ(::write(dialed->doorbell.get(), &one, sizeof(one)), 8);
    ASSERT_TRUE(eventually([&] { return agent.handler().requests == i + 1; }));
  }
  EXPECT_TRUE(eventually([&] { return agent.clients() == 0 && agent.active() == 0; }));
  EXPECT_EQ(agent.handler().gone, 20);
  EXPECT_TRUE(eventually([&] { return open_descriptors() == before; }));
}

TEST_F(ServerTest, ANewModelSendsItsClientsToConnectAgain) {
  FakeAgent agent(config_at(place.path()));
  auto dialed = dial_at(place.path());
  ASSERT_TRUE(dialed);
  agent.with([](Server& server) { EXPECT_TRUE(server.set_model(small_card())); });
  EXPECT_EQ(agent.clients(), 1U) << "an equal card disturbs nobody";
  agent.with([](Server& server) {
    ModelCard other = small_card();
    other.limits.vocabulary = 5;
    EXPECT_TRUE(server.set_model(other));
  });
  const Farewell farewell = await_farewell(dialed->socket.get());
  EXPECT_TRUE(is_retryable(Status{farewell.status}));
  EXPECT_THAT(text_of(farewell.sentence), HasSubstr("the model has changed"));
  EXPECT_TRUE(eventually([&] { return agent.handler().gone == 1; }));
  EXPECT_EQ(dial_at(place.path())->welcome.vocabulary, 5U);
}

TEST_F(ServerTest, RouteStateShowsInTheRegion) {
  FakeAgent agent(config_at(place.path()));
  const auto dialed = dial_at(place.path());
  ASSERT_TRUE(dialed);
  EXPECT_EQ(dialed->region.header().route_state, static_cast<std::uint32_t>(RouteState::kReady));
  agent.with([](Server& server) { server.set_route_state(RouteState::kDegraded); });
  EXPECT_EQ(dialed->region.header().route_state, static_cast<std::uint32_t>(RouteState::kDegraded));
}

TEST_F(ServerTest, ShutDownTellsEveryoneAndAcceptsNobody) {
  FakeAgent agent(config_at(place.path()));
  const auto dialed = dial_at(place.path());
  const UniqueFd stranger = connect_raw(place.path());
  ASSERT_TRUE(dialed);
  agent.with([](Server& server) { server.shut_down(Status::kAgentShutdown, "upgrading"); });
  const Farewell farewell = await_farewell(dialed->socket.get());
  EXPECT_EQ(text_of(farewell.sentence), "upgrading");
  EXPECT_TRUE(is_hung_up(dialed->socket.get()));
  EXPECT_TRUE(is_hung_up(stranger.get()));
  const auto late = dial_at(place.path());
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().status, DS4_NO_AGENT);
}

TEST_F(ServerTest, AFloodFromOneClientDelaysNoOther) {
  FakeAgent agent(config_at(place.path()));
  auto flooder = dial_at(place.path());
  ASSERT_TRUE(flooder);
  std::atomic<bool> done = false;
  std::thread flood([&] {
    RingProducer<SubmissionEntry> ring(flooder->region.submissions());
    SubmissionEntry cancel;
    cancel.op = static_cast<std::uint16_t>(Op::kCancel);
    cancel.request_id = 1;
    cancel.top_p = 0;
    const std::uint64_t one = 1;
    while (!done) {
      while (ring.push(cancel)) {
      }
      ring.publish_ordered();
      (void)!::write(flooder->doorbell.get(), &one, sizeof(one));
    }
  });
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(dial_at(place.path()));
  done = true;
  flood.join();
}

}  // namespace
}  // namespace ds4::ipc::testing
