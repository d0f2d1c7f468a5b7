#include "agent/link/links.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <zmq.hpp>

namespace ds4::agent {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr std::uint64_t kFloatsPerRow = 8;

struct Taken {
  std::string sender;
  wire::MessageKind kind{};
  std::vector<std::vector<std::byte>> parts;
};

std::unique_ptr<Links> bind() {
  auto links = Links::bind({.address = "tcp://127.0.0.1:*"});
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
      for (const auto part : message.parts) taken.parts.emplace_back(part.begin(), part.end());
    });
  }
  return taken;
}

/// Two agents of one route.
class TwoNodes : public ::testing::Test {
 protected:
  TwoNodes() {
    const std::vector<wire::StageSpec> route = {{"a", a->address(), "0:2"},
                                                {"b", b->address(), "3:output"}};
    EXPECT_TRUE(a->connect(route, 0));
    EXPECT_TRUE(b->connect(route, 1));
  }
  std::unique_ptr<Links> a = bind();
  std::unique_ptr<Links> b = bind();
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

TEST_F(TwoNodes, AStageWithoutLinkIsUnreachable) {
  EXPECT_FALSE(a->send(0, wire::CloseFrame{1, {9}}));  // itself
  EXPECT_FALSE(a->send(7, wire::CloseFrame{1, {9}}));
  a->disconnect();
  EXPECT_FALSE(a->send(1, wire::CloseFrame{1, {9}}));
}

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
  const auto second = Links::bind({.address = first->address()});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(second.error().message, HasSubstr(first->address()));
  EXPECT_THAT(second.error().message, HasSubstr("set listen.address"));
}

TEST(Links, ForeignAndMalformedAddressesAreRefused) {
  EXPECT_FALSE(Links::bind({.address = "tcp://203.0.113.1:7341"}));
  EXPECT_FALSE(Links::bind({.address = "tcp://nonsense"}));
  EXPECT_FALSE(Links::bind({.address = "smoke://signals"}));
}

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
