#include "agent/link/links.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <optional>
#include <thread>
#include <zmq.hpp>

namespace ds4::agent {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr std::uint64_t kFloatsPerRow = 8;

struct Taken {
  std::string sender;
  wire::MessageKind kind{};
  std::optional<std::uint32_t> stage;
  bool may_command = false;
  std::vector<std::vector<std::byte>> parts;
};

const keys::Gate kNobody;

/// Without keys, unless one is given.
std::unique_ptr<Links> bind(const std::optional<keys::KeyPair>& key = {},
                            const keys::Gate& gate = kNobody) {
  auto links = Links::bind({.address = "tcp://127.0.0.1:*", .key = key}, gate);
  EXPECT_TRUE(links) << links.error().message;
  return std::move(*links);
}

/// The next message, however long it takes (CTest's time limit is the bound).
Taken take(Links& links) {
  Taken taken;
  bool got = false;
  while (!got) {
    links.wait({}, 1000ms);
    links.receive([&](const Incoming& message) {
      got = true;
      taken.sender = message.sender;
      taken.kind = message.kind;
      taken.stage = message.stage;
      taken.may_command = message.may_command;
      for (const auto part : message.parts) taken.parts.emplace_back(part.begin(), part.end());
    });
  }
  return taken;
}

keys::KeyPair key_pair(keys::KeyRole role = keys::KeyRole::kNode) {
  return keys::make_key_pair(role).value();
}

/// Two agents of one route, and their keys.
class TwoNodes : public ::testing::Test {
 protected:
  TwoNodes() {
    gate_a.set_peers({key_b.public_key.bytes});
    gate_b.set_peers({key_a.public_key.bytes});
    EXPECT_TRUE(a->connect(route, 0));
    EXPECT_TRUE(b->connect(route, 1));
  }
  /// What b makes of everything that comes within the time.
  std::size_t heard_by_b(std::chrono::milliseconds time) const {
    std::size_t heard = 0;
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) {
      b->wait({}, 10ms);
      b->receive([&](const Incoming&) { ++heard; });
    }
    return heard;
  }

  const keys::KeyPair key_a = key_pair();
  const keys::KeyPair key_b = key_pair();
  const keys::KeyPair operator_b = key_pair(keys::KeyRole::kOperator);
  keys::Gate gate_a;
  keys::Gate gate_b{operator_b.public_key, {}};
  std::unique_ptr<Links> a = bind(key_a, gate_a);
  std::unique_ptr<Links> b = bind(key_b, gate_b);
  const std::vector<wire::StageSpec> route = {
      {"a", a->address(), "0:2", keys::to_text(key_a.public_key)},
      {"b", b->address(), "3:output", keys::to_text(key_b.public_key)}};
};

TEST_F(TwoNodes, WorkCarriesItsStreams) {
  wire::WorkFrame frame;
  frame.epoch = 3;
  wire::WorkItem& item = frame.items.emplace_back();
  item.session = 5;
  item.context = 16;
  item.tokens = {1, 2};
  for (int i = 0; i < 16; ++i) frame.streams.push_back(static_cast<float>(i) / 3);
  ASSERT_TRUE(a->send(1, frame));
  const Taken taken = take(*b);
  EXPECT_EQ(taken.kind, wire::MessageKind::kWork);
  ASSERT_EQ(taken.parts.size(), 2U);
  const auto back = wire::decode_work(taken.parts[0], taken.parts[1], kFloatsPerRow);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->epoch, 3U);
  EXPECT_EQ(back->items, frame.items);
  EXPECT_EQ(back->streams, frame.streams);
}

TEST_F(TwoNodes, WhoeverSendsChoosesTheNumbersAndWhoeverReceivesTakesThem) {
  LinkConfig config;
  config.address = "tcp://127.0.0.1:*";
  config.key = key_a;
  config.activations = wire::Activations::kBf16;
  auto narrow = Links::bind(config, gate_a);
  ASSERT_TRUE(narrow && (*narrow)->connect(route, 0));
  wire::WorkFrame frame;
  frame.items.push_back({.session = 5, .context = 16, .sample = {}, .tokens = {1}});
  frame.streams = {1, 2, 0x1.01p0F, -7, 0x1.03p0F, 0, 0, 0};
  ASSERT_TRUE((*narrow)->send(1, frame));
  const Taken taken = take(*b);
  ASSERT_EQ(taken.parts.size(), 2U);
  EXPECT_EQ(taken.parts[1].size(), frame.streams.size() * 2);
  const auto back = wire::decode_work(taken.parts[0], taken.parts[1], kFloatsPerRow);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->streams, (std::vector<float>{1, 2, 1, -7, 0x1.04p0F, 0, 0, 0}));
}

TEST_F(TwoNodes, FramesOfEveryKindArriveInOrder) {
  ASSERT_TRUE(b->send(0, wire::TokenFrame{1, {{.session = 2, .position = 3, .token = 4}}}));
  ASSERT_TRUE(b->send(0, wire::CloseFrame{1, {9}}));
  ASSERT_TRUE(b->send(0, wire::ErrorFrame{1, 1, {2}, ErrorCode::kMismatch, "lost it"}));
  const Taken tokens = take(*a);
  ASSERT_EQ(tokens.kind, wire::MessageKind::kToken);
  EXPECT_EQ(wire::decode_tokens(tokens.parts[0])->outcomes[0].token, 4);
  const Taken close = take(*a);
  ASSERT_EQ(close.kind, wire::MessageKind::kClose);
  EXPECT_EQ(wire::decode_close(close.parts[0])->sessions, std::vector<std::uint64_t>{9});
  const Taken error = take(*a);
  ASSERT_EQ(error.kind, wire::MessageKind::kError);
  EXPECT_EQ(wire::decode_error(error.parts[0])->message, "lost it");
}

TEST_F(TwoNodes, TheEngineThreadSendsWhileTheMainLoopDoes) {
  constexpr std::uint64_t kEach = 100;
  const auto send_all = [this](std::uint64_t first) {
    for (std::uint64_t i = 0; i < kEach; ++i) {
      EXPECT_TRUE(a->send(1, wire::CloseFrame{1, {first + i}}));
    }
  };
  std::thread engine([&] { send_all(1000); });
  send_all(2000);
  engine.join();
  std::uint64_t next[] = {1000, 2000};
  for (std::uint64_t i = 0; i < 2 * kEach; ++i) {
    const Taken taken = take(*b);
    const std::uint64_t session = wire::decode_close(taken.parts[0])->sessions.at(0);
    EXPECT_EQ(session, next[session / 1000 - 1]++);
  }
}

TEST_F(TwoNodes, PingsArriveOnceConnected) {
  bool got = false;
  while (!got) {  // what is sent before the connection stands is missed, by contract
    a->ping({.epoch = 1, .stage = 0, .instance = 77, .loaded = true});
    b->wait({}, 10ms);
    b->receive([&](const Incoming& message) {
      ASSERT_EQ(message.kind, wire::MessageKind::kPing);
      const auto ping = wire::decode_ping(message.parts[0]);
      ASSERT_TRUE(ping);
      EXPECT_EQ(ping->instance, 77U);
      EXPECT_TRUE(ping->loaded);
      got = true;
    });
  }
}

TEST_F(TwoNodes, PingsMeasureTheRoundTripWithoutTheTimeTheyWereHeld) {
  const auto ping = [&](Links& from, std::uint32_t stage, Links& to) {
    bool got = false;
    while (!got) {
      from.ping({.epoch = 1, .stage = stage});
      to.wait({}, 10ms);
      to.receive([&](const Incoming& message) {
        to.note_ping(wire::decode_ping(message.parts[0]).value());
        got = true;
      });
    }
  };
  EXPECT_EQ(a->figures().at(0).round_trip_us, 0U);  // nothing is known yet
  const auto begin = std::chrono::steady_clock::now();
  ping(*a, 0, *b);
  std::this_thread::sleep_for(200ms);
  // Those of b that were on their way before it heard a cannot answer.
  while (a->figures().at(0).round_trip_us == 0) ping(*b, 1, *a);
  const auto all = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(a->figures().at(0).round_trip_us, static_cast<std::uint64_t>((all - 200ms) / 1us));
}

TEST_F(TwoNodes, AnEchoThatCannotBeIsNotBelieved) {
  const auto now = std::chrono::duration_cast<std::chrono::microseconds>(
                       std::chrono::steady_clock::now().time_since_epoch())
                       .count();
  const auto now_us = static_cast<std::uint64_t>(now);
  a->note_ping({.stage = 1, .echo_us = 1});  // of a time before these links
  a->note_ping({.stage = 1, .echo_us = ~0ULL});
  a->note_ping({.stage = 1, .echo_us = now_us, .held_us = ~0ULL});
  a->note_ping({.stage = 200, .echo_us = now_us});
  EXPECT_EQ(a->figures().at(0).round_trip_us, 0U);
  a->note_ping({.stage = 1, .echo_us = now_us});
  EXPECT_GT(a->figures().at(0).round_trip_us, 0U);
}

TEST_F(TwoNodes, FramesAndTheirBytesAreCountedOnBothSidesOfALink) {
  wire::WorkFrame frame;
  frame.epoch = 3;
  wire::WorkItem& item = frame.items.emplace_back();
  item.context = 16;
  item.tokens = {1};
  frame.streams.resize(kFloatsPerRow);
  ASSERT_TRUE(a->send(1, frame));
  ASSERT_TRUE(a->send(1, wire::CloseFrame{3, {9}}));
  take(*b);
  take(*b);
  const wire::LinkFigures sent = a->figures().at(0);
  const wire::LinkFigures received = b->figures().at(0);
  EXPECT_EQ(sent.node, "b");
  EXPECT_EQ(received.node, "a");
  EXPECT_EQ(sent.frames_sent, 2U);
  EXPECT_EQ(received.frames_received, 2U);
  EXPECT_GT(sent.bytes_sent, kFloatsPerRow * sizeof(float));
  EXPECT_EQ(received.bytes_received, sent.bytes_sent);
  EXPECT_EQ(sent.frames_received + received.frames_sent, 0U);
}

TEST_F(TwoNodes, AStageWithoutLinkIsUnreachable) {
  EXPECT_FALSE(a->send(0, wire::CloseFrame{1, {9}}));  // itself
  const auto sent = a->send(7, wire::CloseFrame{1, {9}});
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(sent.error().message, HasSubstr("stage 7"));
  a->disconnect();
  EXPECT_FALSE(a->send(1, wire::CloseFrame{1, {9}}));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they have an allocator apart

/// While it lives, this process gets little more memory than it has: enough for the library's
/// threads, which end the process where they have none.
class NoMoreMemory {
 public:
  NoMoreMemory() {
    ::getrlimit(RLIMIT_AS, &former_);
    std::ifstream figures("/proc/self/statm");
    rlim_t pages = 0;
    figures >> pages;
    const rlimit limit{pages * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE)) + (16U << 20),
                       former_.rlim_max};
    ::setrlimit(RLIMIT_AS, &limit);
  }
  ~NoMoreMemory() { ::setrlimit(RLIMIT_AS, &former_); }

 private:
  rlimit former_{};
};

TEST_F(TwoNodes, AFrameThereIsNoMemoryForIsATypedErrorAndTheNextOneLeaves) {
  wire::WorkFrame work;
  work.epoch = 1;
  work.items.resize(wire::kMaxItems);
  for (auto& item : work.items) item.tokens.assign(16'384, 1);  // 64 MiB of them
  Result<void> sent;
  {
    const NoMoreMemory until_it_failed;
    sent = a->send(1, std::move(work));
  }
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(sent.error().message, HasSubstr("a frame for stage 1 could not be made"));
  ASSERT_TRUE(a->send(1, wire::CloseFrame{1, {9}}));
  EXPECT_EQ(take(*b).kind, wire::MessageKind::kClose);
  EXPECT_EQ(a->figures().at(0).frames_sent, 1U);
}

TEST_F(TwoNodes, AReplyThereIsNoMemoryForIsMissedAndNothingElse) {
  const std::string json(64U << 20, ' ');
  {
    const NoMoreMemory until_it_failed;
    a->reply("nobody", json);
  }
  ASSERT_TRUE(a->send(1, wire::CloseFrame{1, {9}}));
  EXPECT_EQ(take(*b).kind, wire::MessageKind::kClose);
}

#endif

TEST(Links, AFullQueueIsUnreachableAndDoesNotBlock) {
  auto a = bind();
  std::string nobody;
  {
    auto gone = bind();
    nobody = gone->address();
  }
  const std::vector<wire::StageSpec> route = {{"a", a->address(), "0:2"},
                                              {"b", nobody, "3:output"}};
  ASSERT_TRUE(a->connect(route, 0));
  int sent = 0;
  while (sent < 10'000 && a->send(1, wire::CloseFrame{1, {9}})) ++sent;
  EXPECT_GT(sent, 0);
  EXPECT_LT(sent, 10'000);
}

TEST(Links, AnAddressInUseIsOneClearSentence) {
  auto first = bind();
  const auto second = Links::bind({.address = first->address()}, kNobody);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(second.error().message, HasSubstr(first->address()));
  EXPECT_THAT(second.error().message, HasSubstr("set listen.address"));
}

TEST(Links, ForeignAndMalformedAddressesAreRefused) {
  EXPECT_FALSE(Links::bind({.address = "tcp://203.0.113.1:7341"}, kNobody));
  EXPECT_FALSE(Links::bind({.address = "tcp://nonsense"}, kNobody));
  EXPECT_FALSE(Links::bind({.address = "smoke://signals"}, kNobody));
}

// ---- keys ------------------------------------------------------------------------------------

TEST_F(TwoNodes, EveryFrameSaysWhichStageItIsProvenToComeFrom) {
  ASSERT_TRUE(a->send(1, wire::CloseFrame{1, {9}}));
  const Taken taken = take(*b);
  EXPECT_EQ(taken.stage, 0U);
  EXPECT_FALSE(taken.may_command);
}

TEST_F(TwoNodes, ARevokedKeyIsCutOffOnTheStandingConnection) {
  ASSERT_TRUE(a->send(1, wire::CloseFrame{1, {1}}));
  take(*b);
  keys::TrustList list;
  ASSERT_TRUE(list.revoke("a", key_a.public_key));
  gate_b.set_list(list);
  const std::uint64_t before = b->dropped();
  ASSERT_TRUE(a->send(1, wire::CloseFrame{1, {2}}));
  while (b->dropped() == before) EXPECT_EQ(heard_by_b(10ms), 0U);
  // And is heard again once it is forgiven.
  gate_b.set_list({});
  ASSERT_TRUE(a->send(1, wire::CloseFrame{1, {3}}));
  EXPECT_EQ(wire::decode_close(take(*b).parts[0])->sessions, std::vector<std::uint64_t>{3});
}

TEST_F(TwoNodes, ARevokedStageGetsNoLink) {
  keys::TrustList list;
  ASSERT_TRUE(list.revoke("b", key_b.public_key));
  gate_a.set_list(list);
  ASSERT_TRUE(a->connect(route, 0));
  EXPECT_FALSE(a->send(1, wire::CloseFrame{1, {9}}));
}

TEST_F(TwoNodes, SomebodyElseAtAStagesAddressLearnsNothing) {
  // The route says another key than the one that b has: a's frames do not reach it.
  std::vector<wire::StageSpec> other = route;
  const keys::PublicKey expected = key_pair().public_key;
  other[1].key = keys::to_text(expected);
  gate_a.set_peers({expected.bytes});
  ASSERT_TRUE(a->connect(other, 0));
  ASSERT_TRUE(a->send(1, wire::CloseFrame{1, {9}}));  // queued
  EXPECT_EQ(heard_by_b(500ms), 0U);
}

/// Somebody with a key of his own, or none, who knows the agent's.
class WithKey : public TwoNodes {
 protected:
  zmq::socket_t dial(const std::optional<keys::KeyPair>& key) {
    zmq::socket_t socket(context, zmq::socket_type::dealer);
    socket.set(zmq::sockopt::linger, 0);
    if (key) {
      const auto set = [&](auto option, const keys::KeyBytes& bytes) {
        socket.set(option, zmq::buffer(bytes.data(), bytes.size()));
      };
      set(zmq::sockopt::curve_serverkey, key_b.public_key.bytes);
      set(zmq::sockopt::curve_publickey, key->public_key.bytes);
      set(zmq::sockopt::curve_secretkey, key->secret);
    }
    socket.connect(b->address());
    return socket;
  }
  static void say(zmq::socket_t& socket, wire::MessageKind kind, const std::string& body) {
    socket.send(zmq::buffer(wire::encode_kind(kind)), zmq::send_flags::sndmore);
    socket.send(zmq::buffer(body), zmq::send_flags::none);
  }
  static void say_everything(zmq::socket_t& socket) {
    using enum wire::MessageKind;
    for (const auto kind : {kControl, kWork, kToken, kClose, kError, kPing}) {
      say(socket, kind, "{}");
    }
  }
  zmq::context_t context{1};
};

TEST_F(WithKey, AStrangersMessagesOfEveryKindAreNotEvenReceived) {
  zmq::socket_t unknown = dial(key_pair());
  zmq::socket_t unknown_operator = dial(key_pair(keys::KeyRole::kOperator));
  zmq::socket_t plain = dial(std::nullopt);
  for (zmq::socket_t* socket : {&unknown, &unknown_operator, &plain}) say_everything(*socket);
  EXPECT_EQ(heard_by_b(1000ms), 0U);
  EXPECT_EQ(b->dropped(), 0U);
}

TEST_F(WithKey, AThiefOfAPublicKeyGetsNowhere) {
  keys::KeyPair pretended = key_pair();
  pretended.public_key = operator_b.public_key;
  zmq::socket_t socket = dial(pretended);
  say_everything(socket);
  EXPECT_EQ(heard_by_b(500ms), 0U);
}

TEST_F(WithKey, AnOperatorCommandsButSendsNoFrames) {
  zmq::socket_t socket = dial(operator_b);
  say_everything(socket);
  const Taken taken = take(*b);
  EXPECT_EQ(taken.kind, wire::MessageKind::kControl);
  EXPECT_TRUE(taken.may_command);
  while (b->dropped() < 5) EXPECT_EQ(heard_by_b(10ms), 0U);
}

TEST_F(WithKey, ANodeOfTheRouteSendsFramesButDoesNotCommand) {
  zmq::socket_t socket = dial(key_a);
  say(socket, wire::MessageKind::kControl, "{}");
  EXPECT_FALSE(take(*b).may_command);
  say(socket, wire::MessageKind::kPing, "{}");
  EXPECT_EQ(take(*b).stage, 0U);
}

TEST_F(WithKey, ANodeOfAnEpochInPreparationIsLetInButItsFramesWaitForTheCommit) {
  const keys::KeyPair key_c = key_pair();
  gate_b.set_peers({key_a.public_key.bytes, key_c.public_key.bytes});
  zmq::socket_t socket = dial(key_c);
  say(socket, wire::MessageKind::kPing, "{}");
  while (b->dropped() == 0) EXPECT_EQ(heard_by_b(10ms), 0U);
}

TEST_F(WithKey, SomebodyRefusedGetsInOnceTrusted) {
  const keys::KeyPair alice = key_pair(keys::KeyRole::kOperator);
  zmq::socket_t socket = dial(alice);
  say(socket, wire::MessageKind::kControl, "{}");
  EXPECT_EQ(heard_by_b(300ms), 0U);
  keys::TrustList list;
  ASSERT_TRUE(list.trust("alice", alice.public_key));
  gate_b.set_list(list);
  EXPECT_TRUE(take(*b).may_command);
}

// ---- without keys ----------------------------------------------------------------------------

class Stranger : public ::testing::Test {
 protected:
  Stranger() {
    socket.set(zmq::sockopt::linger, 0);
    socket.connect(links->address());
  }
  void say(const std::vector<std::string>& parts) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto more = i + 1 < parts.size() ? zmq::send_flags::sndmore : zmq::send_flags::none;
      socket.send(zmq::buffer(parts[i]), more);
    }
  }
  std::unique_ptr<Links> links = bind();
  zmq::context_t context{1};
  zmq::socket_t socket{context, zmq::socket_type::dealer};
};

TEST_F(Stranger, ControlIsAnsweredToItsSender) {
  say({wire::encode_kind(wire::MessageKind::kControl), "{}"});
  const Taken taken = take(*links);
  EXPECT_EQ(taken.kind, wire::MessageKind::kControl);
  links->reply(taken.sender, "[1]");
  zmq::message_t kind;
  zmq::message_t body;
  ASSERT_TRUE(socket.recv(kind));
  ASSERT_TRUE(socket.recv(body));
  EXPECT_EQ(kind.to_string(), wire::encode_kind(wire::MessageKind::kControl));
  EXPECT_EQ(body.to_string(), "[1]");
}

TEST_F(Stranger, NonsenseIsDroppedAndWhatFollowsIsHeard) {
  say({"hello"});
  say({"", "", ""});
  say({std::string("C\x63", 2), "{}"});  // another protocol version
  say({"ZZ", "?"});
  say({wire::encode_kind(wire::MessageKind::kControl)});  // no body
  say({wire::encode_kind(wire::MessageKind::kControl), "1", "2", "3", "4", "5", "6", "7"});
  say({wire::encode_kind(wire::MessageKind::kControl), "{}"});
  const Taken taken = take(*links);
  EXPECT_EQ(taken.kind, wire::MessageKind::kControl);
  EXPECT_EQ(taken.parts.size(), 1U);
  EXPECT_EQ(links->dropped(), 6U);
}

TEST_F(Stranger, AReplyToSomebodyGoneIsNoError) {
  say({wire::encode_kind(wire::MessageKind::kControl), "{}"});
  const Taken taken = take(*links);
  socket.close();
  for (int i = 0; i < 1000; ++i) links->reply(taken.sender, "[1]");
  links->reply("never met", "[1]");
}

}  // namespace
}  // namespace ds4::agent
