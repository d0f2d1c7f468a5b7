// Every message that there is, from everybody who may not send it, to a real agent: nothing about
// the agent changes, and no row is computed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <iterator>
#include <utility>

#include "agent/keys/key_files.h"
#include "tests/agent/agent_process.h"
#include "tests/agent/ds4d/connection.h"
#include "tests/agent/ds4d/every_message.h"

namespace ds4::test {
namespace {

using namespace std::chrono_literals;
using wire::MessageKind;
using wire::NodeState;

keys::KeyPair new_key(keys::KeyRole role) {
  return keys::make_key_pair(role).value();
}

std::string text_of(const keys::KeyPair& pair) {
  return keys::to_text(pair.public_key);
}

std::string file_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Everything that an agent's messages could change, as one text.
std::string everything_about(const AgentProcess& agent) {
  const auto reply = agent.ask({.body = wire::KeysRequest{}});
  EXPECT_TRUE(reply && reply->status && reply->keys);
  if (!reply || !reply->status || !reply->keys) return "";
  wire::NodeStatus status = *reply->status;
  // What goes on by itself: clocks, pings, why a stage is missed, and the count of what was
  // refused. The stage's batches and rows stay in.
  status.detail.clear();
  status.stage.clock_us = status.stage.wait_us = 0;
  status.links.clear();
  status.dropped_messages = 0;
  std::string all = wire::to_json_text(status);
  for (const wire::KnownKey& key : *reply->keys) {
    all += "\n" + key.name + " " + key.key + (key.revoked ? " revoked" : "");
  }
  for (const char* name : {"trust", "route.json"}) {
    all += "\n" + file_text(agent.state_dir() / name);
  }
  return all;
}

class Hostile : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(assign({&a, &b}, route, 1));
    setting = {route, "a", "b", text_of(new_key(keys::KeyRole::kOperator)), 1};
    ASSERT_TRUE(a.becomes(NodeState::kReady));
    before = everything_about(a);
  }

  void say_every_request(Connection& connection) const {
    for (const RequestBody& body : every_request(setting)) {
      connection.say(MessageKind::kControl, encode(wire::Request{1, body}));
    }
  }
  void say_every_kind(Connection& connection, bool control = true) const {
    for (const MessageKind kind : every_kind()) {
      if (kind == MessageKind::kControl && !control) continue;
      connection.say(kind, link_message(kind, setting.epoch));
    }
  }
  std::size_t messages() const { return every_request(setting).size() + every_kind().size(); }
  /// Until `a` has refused so many messages more than `already`.
  bool has_dropped(std::uint64_t already, std::size_t more) const {
    return eventually([&] { return a.status().dropped_messages >= already + more; });
  }

  // Nobody shall be missed because the machine is busy.
  const std::string patient = "[engine]\nthreads = 1\n[link]\ntimeout_ms = 20000\n";
  AgentProcess a{{.name = "a", .toml = patient}};
  AgentProcess b{{.name = "b", .toml = patient}};
  const std::vector<wire::StageSpec> route = route_of({{&a, "0:2"}, {&b, "3:output"}});
  MessageSetting setting;
  std::string before;
};

TEST_F(Hostile, WhatIsAllowedShowsInTheComparison) {
  std::string last = before;
  const auto changed = [&] {
    const std::string now = everything_about(a);
    return std::exchange(last, now) != now;
  };
  EXPECT_FALSE(changed());
  ASSERT_FALSE(a.ask({.body = wire::DrainRequest{true}})->error);
  EXPECT_TRUE(changed());
  ASSERT_FALSE(a.ask({.body = wire::TrustRequest{"alice", setting.new_operator}})->error);
  EXPECT_TRUE(changed());
  // One row for an entry that is the sender: b's key may have it computed.
  wire::WorkFrame work;
  work.epoch = setting.epoch;
  wire::WorkItem& item = work.items.emplace_back();
  item.session = 5;
  item.context = 16;
  item.entry = 1;
  item.tokens = {1};
  Connection node(a, keys::load_key(b.state_dir(), keys::KeyRole::kNode).value());
  node.say(MessageKind::kWork, encode(work));
  EXPECT_TRUE(eventually(changed));
}

TEST_F(Hostile, WhoHasNoKeyOrAnUnknownOneIsNotHeard) {
  for (const auto& key :
       {std::optional<keys::KeyPair>(), std::optional(new_key(keys::KeyRole::kOperator)),
        std::optional(new_key(keys::KeyRole::kNode))}) {
    Connection stranger(a, key);
    say_every_request(stranger);
    say_every_kind(stranger);
    EXPECT_FALSE(stranger.hear_any(1000ms));
  }
  EXPECT_EQ(everything_about(a), before);
}

TEST_F(Hostile, AnOperatorSendsNoFrames) {
  const std::uint64_t dropped = a.status().dropped_messages;
  Connection operators(a, a.operator_key());
  say_every_kind(operators, /*control=*/false);
  // But for control and probes, which an operator may send.
  ASSERT_TRUE(has_dropped(dropped, every_kind().size() - 2));
  const auto answer = operators.hear_any(kPatience);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->first, MessageKind::kProbe);
  EXPECT_EQ(answer->second, "8 bytes.");
  EXPECT_FALSE(operators.hear_any(300ms));
  EXPECT_EQ(everything_about(a), before);
}

TEST_F(Hostile, ANodeOfTheRouteCommandsNobody) {
  const keys::KeyPair key = keys::load_key(b.state_dir(), keys::KeyRole::kNode).value();
  Connection node(a, key);
  for (const RequestBody& body : every_request(setting)) {
    const wire::Request request{1, body};
    node.say(MessageKind::kControl, encode(request));
    const auto error = node.hear(kPatience);
    ASSERT_TRUE(error && *error) << name_of(request);
    EXPECT_EQ((*error)->code, ErrorCode::kPermission) << name_of(request);
  }
  EXPECT_EQ(everything_about(a), before);
}

TEST_F(Hostile, ARevokedOperatorIsNotHeardOnHisConnectionNorOnAnother) {
  const keys::KeyPair alice = new_key(keys::KeyRole::kOperator);
  ASSERT_FALSE(a.ask({.body = wire::TrustRequest{"alice", text_of(alice)}})->error);
  Connection standing(a, alice);
  standing.say(MessageKind::kControl, encode(wire::Request{1, wire::StatusRequest{}}));
  ASSERT_TRUE(standing.hear(kPatience));
  ASSERT_FALSE(a.ask({.body = wire::RevokeRequest{"alice"}})->error);
  before = everything_about(a);
  const std::uint64_t dropped = a.status().dropped_messages;
  say_every_request(standing);
  say_every_kind(standing);
  ASSERT_TRUE(has_dropped(dropped, messages()));
  EXPECT_FALSE(standing.hear_any(300ms));
  Connection again(a, alice);
  say_every_request(again);
  say_every_kind(again);
  EXPECT_FALSE(again.hear_any(1000ms));
  EXPECT_EQ(everything_about(a), before);
}

TEST_F(Hostile, ARevokedNodeIsNotHeardOnItsConnectionNorOnAnother) {
  const keys::KeyPair key = keys::load_key(b.state_dir(), keys::KeyRole::kNode).value();
  Connection standing(a, key);
  standing.say(MessageKind::kControl, encode(wire::Request{1, wire::StatusRequest{}}));
  ASSERT_TRUE(standing.hear(kPatience));
  ASSERT_FALSE(a.ask({.body = wire::RevokeRequest{"b"}})->error);
  b.signal(SIGSTOP);  // its own pings are refused now, and would be counted
  ASSERT_TRUE(a.becomes(NodeState::kDegraded));
  before = everything_about(a);
  const std::uint64_t dropped = a.status().dropped_messages;
  say_every_request(standing);
  say_every_kind(standing);
  ASSERT_TRUE(has_dropped(dropped, messages()));
  EXPECT_FALSE(standing.hear_any(300ms));
  Connection again(a, key);
  say_every_request(again);
  say_every_kind(again);
  EXPECT_FALSE(again.hear_any(1000ms));
  EXPECT_EQ(everything_about(a), before);
}

TEST_F(Hostile, WhoIsExpectedToMeasureDoesNothingElse) {
  const keys::KeyPair prober = new_key(keys::KeyRole::kNode);
  Connection planner(a, a.operator_key());
  const auto expect = [](Connection& by, std::vector<std::string> keys) {
    by.say(MessageKind::kControl, encode(wire::Request{1, wire::ExpectRequest{std::move(keys)}}));
    const auto error = by.hear(kPatience);
    return error && !*error;
  };
  ASSERT_TRUE(expect(planner, {text_of(prober)}));
  const std::uint64_t dropped = a.status().dropped_messages;
  Connection measuring(a, prober);
  say_every_request(measuring);
  say_every_kind(measuring);
  ASSERT_TRUE(has_dropped(dropped, messages() - 1));
  const auto answer = measuring.hear_any(kPatience);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->first, MessageKind::kProbe);
  EXPECT_FALSE(measuring.hear_any(300ms));
  EXPECT_EQ(everything_about(a), before);
  // Nobody else's plan ends it, nor does a configuration that is read again.
  Connection other(a, a.operator_key());
  ASSERT_TRUE(expect(other, {text_of(new_key(keys::KeyRole::kNode))}));
  ASSERT_TRUE(expect(other, {}));
  a.signal(SIGHUP);
  ASSERT_TRUE(eventually([&] { return a.log().find("read again") != std::string::npos; }));
  measuring.say(MessageKind::kProbe, link_message(MessageKind::kProbe, 1));
  EXPECT_TRUE(measuring.hear_any(kPatience));
  // And when the measuring is over, not even that.
  ASSERT_TRUE(expect(planner, {}));
  measuring.say(MessageKind::kProbe, link_message(MessageKind::kProbe, 1));
  EXPECT_FALSE(measuring.hear_any(500ms));
}

}  // namespace
}  // namespace ds4::test
