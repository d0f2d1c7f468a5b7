// Who may do what to real agents, over real connections; hostile_process_test.cpp tries every
// message.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>

#include "agent/keys/key_files.h"
#include "agent/wire/frame.h"
#include "ipc/client/ds4.hpp"
#include "tests/agent/agent_process.h"
#include "tests/agent/ds4d/connection.h"

namespace ds4::test {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;
using wire::MessageKind;
using wire::NodeState;

std::string text_of(const keys::KeyPair& pair) {
  return keys::to_text(pair.public_key);
}

class Route : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(assign({&a, &b}, route, 1)); }
  /// Everything about a that somebody could have changed.
  void expect_untouched(const std::string& log_before) const {
    const wire::NodeStatus status = a.status();
    EXPECT_EQ(status.state, NodeState::kReady);
    EXPECT_EQ(status.epoch, 1U);
    EXPECT_EQ(status.highest_epoch, 1U);
    EXPECT_FALSE(status.preparation);
    EXPECT_EQ(status.sessions, 0U);
    EXPECT_FALSE(std::filesystem::exists(a.state_dir() / "trust"));
    const std::string said = a.log().substr(log_before.size());
    EXPECT_THAT(said, Not(HasSubstr("degraded")));
    EXPECT_THAT(said, Not(HasSubstr("joining")));
  }

  AgentProcess a{{.name = "a"}};
  AgentProcess b{{.name = "b"}};
  const std::vector<wire::StageSpec> route = route_of({{&a, "0:2"}, {&b, "3:output"}});
};

TEST_F(Route, TheOtherNodesOperatorIsAStrangerUntilTrusted) {
  const std::string log = a.log();
  EXPECT_FALSE(a.ask_as(b.operator_key(), {.body = wire::ReleaseRequest{}}, 1000ms));
  expect_untouched(log);
  const auto trusted =
      a.ask({.body = wire::TrustRequest{"b's operator", text_of(b.operator_key())}});
  ASSERT_TRUE(trusted && !trusted->error) << trusted->error->message;
  EXPECT_TRUE(a.ask_as(b.operator_key(), {.body = wire::StatusRequest{}}));
}

/// What `agent` proves itself with.
keys::KeyPair secret_of(const AgentProcess& agent) {
  return keys::load_key(agent.state_dir(), keys::KeyRole::kNode).value();
}

TEST_F(Route, ANodeSpeaksForNoOtherStage) {
  AgentProcess c({.name = "c"});
  const auto three = route_of({{&a, "0:1"}, {&b, "2:3"}, {&c, "4:output"}});
  ASSERT_TRUE(assign({&a, &b, &c}, three, 2));
  const std::string log = a.log();
  Connection node(a, secret_of(c));
  node.say(MessageKind::kPing,
           encode(wire::PingFrame{.epoch = 2, .stage = 1, .instance = 666, .loaded = false}));
  node.say(MessageKind::kError,
           encode(wire::ErrorFrame{2, 1, {5}, ErrorCode::kInternal, "made up"}));
  node.say(MessageKind::kWork, [] {
    wire::WorkFrame work;
    work.epoch = 2;
    wire::WorkItem& item = work.items.emplace_back();
    item.session = 5;
    item.context = 16;
    item.entry = 1;  // for an entry that it is not
    item.tokens = {1};
    return encode(work);
  }());
  node.say(MessageKind::kControl, encode(wire::Request{1, wire::StatusRequest{}}));
  ASSERT_TRUE(node.hear(kPatience));  // so a has seen all before it
  const std::string said = a.log().substr(log.size());
  EXPECT_THAT(said, Not(HasSubstr("joining")));
  EXPECT_EQ(a.status().state, NodeState::kReady);
  EXPECT_EQ(a.status().sessions, 0U);
}

TEST_F(Route, ARevokedNodeIsCutOffAtOnceAndMayComeBackWhenForgiven) {
  const auto revoked = a.ask({.body = wire::RevokeRequest{"b"}});
  ASSERT_TRUE(revoked && !revoked->error) << revoked->error->message;
  // Its connection stands, but the reply to the revocation says already that nobody is heard on it.
  EXPECT_EQ(revoked->status->state, NodeState::kDegraded);
  // No new assignment brings the key back by accident, nor does a restart.
  const auto again = a.ask({.body = wire::PrepareRequest{2, "", route, "a"}});
  ASSERT_TRUE(again && again->error);
  EXPECT_EQ(again->error->code, ErrorCode::kPermission);
  EXPECT_THAT(again->error->message, HasSubstr("node b was revoked"));
  a.kill_hard();
  a.start();
  EXPECT_TRUE(a.becomes(NodeState::kDegraded));

  const auto forgiven = a.ask({.body = wire::TrustRequest{"b", b.node_key()}});
  ASSERT_TRUE(forgiven && !forgiven->error) << forgiven->error->message;
  EXPECT_TRUE(a.becomes(NodeState::kReady));
}

TEST_F(Route, WhomTheAgentKnowsIsListed) {
  const auto reply = a.ask({.body = wire::KeysRequest{}});
  ASSERT_TRUE(reply && reply->keys);
  std::vector<std::string> known;
  for (const auto& key : *reply->keys) known.push_back(key.key);
  EXPECT_THAT(known, ::testing::UnorderedElementsAre(text_of(a.operator_key()), a.node_key(),
                                                     b.node_key()));
}

// ---- starts ----------------------------------------------------------------------------------

TEST(Keys, AreMadePrivateAtTheFirstStartAndKept) {
  AgentProcess agent({.name = "a"});
  for (const char* name : {"node.key", "operator.key"}) {
    struct stat info {};
    ASSERT_EQ(::stat((agent.state_dir() / name).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0600U) << name;
  }
  const std::string before = agent.node_key();
  agent.kill_hard();
  agent.start();
  EXPECT_EQ(agent.node_key(), before);
}

TEST(Keys, ThatOthersCanReadStopTheStartWithASentence) {
  AgentProcess agent({.name = "a"});
  ASSERT_EQ(agent.stop(), 0);
  ASSERT_EQ(::chmod((agent.state_dir() / "node.key").c_str(), 0644), 0);
  const auto result = run_ds4d({"--config", agent.config_path(), "--listen", "tcp://127.0.0.1:*"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("chmod 600"));
}

TEST(Insecure, IsSaidLoudlyAndDoesNotMixWithKeys) {
  AgentProcess open({.name = "a", .insecure = true});
  EXPECT_THAT(open.log(), HasSubstr("INSECURE"));
  ASSERT_TRUE(assign({&open}, route_of({{&open, "0:output"}}), 1));
  AgentProcess closed({.name = "b"});
  EXPECT_THAT(closed.log(), Not(HasSubstr("INSECURE")));
  const auto route = route_of({{&open, "0:2"}, {&closed, "3:output"}});
  const auto by_open = open.ask({.body = wire::PrepareRequest{2, "", route, "a"}});
  ASSERT_TRUE(by_open && by_open->error);
  EXPECT_THAT(by_open->error->message, HasSubstr("insecure"));
  const auto by_closed = closed.ask({.body = wire::PrepareRequest{2, "", route, "b"}});
  ASSERT_TRUE(by_closed && by_closed->error);
  EXPECT_THAT(by_closed->error->message, HasSubstr("no key for node a"));
}

// ---- what passes on the wire -----------------------------------------------------------------

/// Passes bytes on to an agent, and keeps them all.
class Wiretap {
 public:
  explicit Wiretap(const std::string& target) : listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    target_.sin_family = AF_INET;
    target_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    target_.sin_port =
        htons(static_cast<std::uint16_t>(std::stoi(target.substr(target.rfind(':') + 1))));
    sockaddr_in here{};
    here.sin_family = AF_INET;
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof(here);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&here), bytes), 0);
    EXPECT_EQ(::listen(listener_.get(), 16), 0);
    ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&here), &bytes);
    address_ = "tcp://127.0.0.1:" + std::to_string(ntohs(here.sin_port));
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  }
  const std::string& address() const { return address_; }
  std::string heard() {
    const std::lock_guard lock(mutex_);
    return heard_;
  }

 private:
  struct Pair {
    UniqueFd outside;
    UniqueFd inside;
  };

  void run(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      std::vector<pollfd> fds = {{listener_.get(), POLLIN, 0}};
      for (const Pair& pair : pairs_) {
        fds.push_back({pair.outside.get(), POLLIN, 0});
        fds.push_back({pair.inside.get(), POLLIN, 0});
      }
      ::poll(fds.data(), fds.size(), 50);
      if (fds[0].revents != 0) join();
      std::vector<std::size_t> ended;
      for (std::size_t i = 0; 2 * i + 2 < fds.size(); ++i) {
        const bool goes_on = pass(fds[2 * i + 1], pairs_[i].inside.get()) &&
                             pass(fds[2 * i + 2], pairs_[i].outside.get());
        if (!goes_on) ended.insert(ended.begin(), i);
      }
      for (const std::size_t i : ended) pairs_.erase(pairs_.begin() + static_cast<long>(i));
    }
  }
  void join() {
    Pair pair{UniqueFd(::accept(listener_.get(), nullptr, nullptr)),
              UniqueFd(::socket(AF_INET, SOCK_STREAM, 0))};
    if (::connect(pair.inside.get(), reinterpret_cast<sockaddr*>(&target_), sizeof(target_)) == 0) {
      pairs_.push_back(std::move(pair));
    }
  }
  bool pass(const pollfd& from, int to) {
    if (from.revents == 0) return true;
    char buffer[1 << 16];
    const ssize_t n = ::recv(from.fd, buffer, sizeof(buffer), 0);
    if (n <= 0) return false;
    {
      const std::lock_guard lock(mutex_);
      heard_.append(buffer, static_cast<std::size_t>(n));
    }
    return ::send(to, buffer, static_cast<std::size_t>(n), MSG_NOSIGNAL) == n;
  }

  UniqueFd listener_;
  sockaddr_in target_{};
  std::string address_;
  std::mutex mutex_;
  std::string heard_;
  std::vector<Pair> pairs_;
  std::jthread thread_;
};

/// What the wire carries while `agents` answer a question whose tokens are `needle`.
class Listening : public ::testing::TestWithParam<bool> {
 protected:
  const bool insecure = GetParam();
  AgentProcess a{{.name = "a", .insecure = insecure}};
  AgentProcess b{{.name = "b", .insecure = insecure}};
  Wiretap to_a{a.address()};
  Wiretap to_b{b.address()};
};

std::string bytes_of(const std::vector<client::Token>& tokens) {
  return {reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(client::Token)};
}

TEST_P(Listening, ReadsTokensAndFingerprintsExactlyWithoutEncryption) {
  std::vector<wire::StageSpec> route = route_of({{&a, "0:2"}, {&b, "3:output"}});
  route[0].address = to_a.address();
  route[1].address = to_b.address();
  ASSERT_TRUE(assign({&a, &b}, route, 1));

  client::Connection connection(b.socket_path());  // so the prompt crosses to stage 0, on a
  const std::vector<client::Token> prompt = connection.tokenize("The capital of France is Paris.");
  ASSERT_GT(prompt.size(), 3U);
  client::Request request;
  request.prompt = prompt;
  request.max_tokens = 4;
  const client::RequestId id = connection.submit(request);
  for (;;) {
    const auto event = connection.next(std::chrono::milliseconds(kPatience));
    ASSERT_TRUE(event);
    if (event->request == id && client::is_final(*event)) break;
  }
  EXPECT_GT(to_a.heard().size(), 300U);
  EXPECT_GT(to_b.heard().size(), 300U);
  // The tap itself works: without keys it reads the prompt.
  EXPECT_EQ(to_a.heard().find(bytes_of(prompt)) != std::string::npos, insecure);
  EXPECT_EQ(to_b.heard().find(bytes_of(prompt)) != std::string::npos, insecure);
}

INSTANTIATE_TEST_SUITE_P(Links, Listening, ::testing::Bool(), [](const auto& insecure) {
  return insecure.param ? "Insecure" : "Encrypted";
});

}  // namespace
}  // namespace ds4::test
