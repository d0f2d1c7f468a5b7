// The control client against real sockets: a ROUTER in the test plays the agent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ctl/ds4ctl/control_client.h"
#include "tests/ctl/node_fixture.h"
#include "tests/ctl/router_agent.h"

namespace ds4::ctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::chrono::milliseconds kPatience{20'000};  // for what does happen
constexpr std::chrono::milliseconds kShort{200};        // for what never does

wire::Reply status_reply(const wire::Request& request, const std::string& name) {
  wire::Reply reply;
  reply.id = request.id;
  reply.status = testing_nodes::idle(name);
  return reply;
}

TEST(ControlClient, CollectsTheStatusOfEveryNode) {
  RouterAgent a([](const auto& r) { return Messages{message_of(status_reply(r, "a"))}; });
  RouterAgent b([](const auto& r) { return Messages{message_of(status_reply(r, "b"))}; });
  const std::vector<Node> nodes = {{"a", a.address}, {"b", b.address}};
  const auto transport = connect_nodes(nodes, std::nullopt).value();
  for (int round = 0; round < 3; ++round) {
    const auto statuses = query_statuses(*transport, nodes, kPatience);
    ASSERT_EQ(statuses.size(), 2u);
    ASSERT_TRUE(statuses[0].has_value()) << statuses[0].error().message;
    EXPECT_EQ(statuses[0]->name, "a");
    EXPECT_EQ(statuses[1]->name, "b");
  }
}

TEST(ControlClient, SaysWhichNodeIsDownAndWhatToDo) {
  RouterAgent a([](const auto& r) { return Messages{message_of(status_reply(r, "a"))}; });
  const std::vector<Node> nodes = {{"a", a.address}, {"b", "tcp://127.0.0.1:1"}};
  const auto transport = connect_nodes(nodes, std::nullopt).value();
  // Long enough for a, which is there; b never answers.
  const auto statuses = query_statuses(*transport, nodes, std::chrono::seconds(2));
  EXPECT_TRUE(statuses[0].has_value());
  ASSERT_FALSE(statuses[1].has_value());
  EXPECT_EQ(statuses[1].error().code, ErrorCode::kTimeout);
  EXPECT_THAT(statuses[1].error().message,
              AllOf(HasSubstr("node b"), HasSubstr("tcp://127.0.0.1:1"), HasSubstr("systemctl")));
}

TEST(ControlClient, TakesALateReplyForNobodyElses) {
  RouterAgent a([](const wire::Request& request) {
    wire::Reply late = status_reply(request, "ghost");
    late.id = request.id + 1000;
    return Messages{message_of(late), message_of(status_reply(request, "a"))};
  });
  const std::vector<Node> nodes = {{"a", a.address}};
  const auto statuses = query_statuses(*connect_nodes(nodes, std::nullopt).value(), nodes, kPatience);
  ASSERT_TRUE(statuses[0].has_value());
  EXPECT_EQ(statuses[0]->name, "a");
}

TEST(ControlClient, PassesOnARefusalWithTheNodesName) {
  RouterAgent a([](const wire::Request& request) {
    wire::Reply reply;
    reply.id = request.id;
    reply.error = Error{ErrorCode::kPermission, "not by you"};
    return Messages{message_of(reply)};
  });
  const std::vector<Node> nodes = {{"a", a.address}};
  const auto replies =
      ask_all(*connect_nodes(nodes, std::nullopt).value(), nodes, wire::ReleaseRequest{}, kPatience);
  ASSERT_FALSE(replies[0].has_value());
  EXPECT_EQ(replies[0].error().code, ErrorCode::kPermission);
  EXPECT_EQ(replies[0].error().message, "node a refused: not by you");
}

TEST(ControlClient, RefusesAnotherProtocolVersionAndGarbage) {
  const Messages hostile = {{std::string("C\x09", 2), "{}"},  // another version
                            {"http/1.1 400"},                 // another program
                            {wire::encode_kind(wire::MessageKind::kControl)},
                            {wire::encode_kind(wire::MessageKind::kPing), "x"},
                            {wire::encode_kind(wire::MessageKind::kControl), "{not json"},
                            {wire::encode_kind(wire::MessageKind::kControl), "{}", "more"}};
  for (const Parts& parts : hostile) {
    RouterAgent a([&](const auto&) { return Messages{parts}; });
    const std::vector<Node> nodes = {{"a", a.address}};
    const auto statuses = query_statuses(*connect_nodes(nodes, std::nullopt).value(), nodes, kPatience);
    ASSERT_FALSE(statuses[0].has_value());
    EXPECT_NE(statuses[0].error().code, ErrorCode::kTimeout);
    EXPECT_THAT(statuses[0].error().message, HasSubstr("node a"));
  }
}

TEST(ControlClient, SendingToNobodyNeverBlocks) {
  const std::vector<Node> nodes = {{"b", "tcp://127.0.0.1:1"}};
  const auto transport = connect_nodes(nodes, std::nullopt).value();
  for (std::uint64_t id = 1; id < 5000; ++id) transport->send(0, {id, wire::StatusRequest{}});
  EXPECT_TRUE(transport->receive(kShort).empty());
}

}  // namespace
}  // namespace ds4::ctl
