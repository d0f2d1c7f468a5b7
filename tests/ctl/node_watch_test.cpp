#include "ctl/ds4ctl/node_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/ctl/node_fixture.h"

namespace ds4::ctl {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

struct Watching {
  NodeWatch watch{testing_nodes::two_nodes().nodes, {}};
  NodeWatch::TimePoint now{1h};

  /// Answers of the node with so many batches done.
  void answer(const Outgoing& asked, std::uint64_t batches) {
    wire::Reply reply;
    reply.id = asked.request.id;
    reply.status = testing_nodes::idle("alpha");
    reply.status->stage.batches = batches;
    watch.on_reply(asked.node, reply, now);
  }
  std::uint64_t batches(const std::vector<NodeView>& views) const {
    return views[0].status->stage.batches;
  }
};

TEST(NodeWatch, AsksEveryNodeOnceASecondAndForNoAudit) {
  Watching w;
  EXPECT_EQ(w.watch.now()[0].status.error().message, "not heard from yet");
  const auto first = w.watch.due(w.now);
  ASSERT_THAT(first, SizeIs(2));
  EXPECT_FALSE(std::get<wire::StatusRequest>(first[0].request.body).audit);
  EXPECT_NE(first[0].request.id, first[1].request.id);
  for (const Outgoing& asked : first) w.answer(asked, 1);
  w.now += 999ms;
  EXPECT_THAT(w.watch.due(w.now), IsEmpty());
  w.now += 1ms;
  EXPECT_THAT(w.watch.due(w.now), SizeIs(2));
  EXPECT_THAT(w.watch.due(w.now + 1500ms), IsEmpty());  // they have not answered yet
}

TEST(NodeWatch, OneThatDoesNotAnswerHoldsUpNobody) {
  Watching w;
  w.answer(w.watch.due(w.now)[0], 1);
  w.now += 1s;
  const auto second = w.watch.due(w.now);
  ASSERT_THAT(second, SizeIs(1));
  EXPECT_EQ(second[0].node, 0U);
  w.answer(second[0], 2);
  w.now += 2s;
  const auto third = w.watch.due(w.now);
  ASSERT_THAT(third, SizeIs(2));  // the silent one anew
  EXPECT_TRUE(w.watch.now()[0].status);
  EXPECT_THAT(w.watch.now()[1].status.error().message,
              HasSubstr("does not answer at tcp://10.0.0.2:7341"));
}

TEST(NodeWatch, ALateAnswerIsNotTakenForTheNewOnes) {
  Watching w;
  const auto first = w.watch.due(w.now);
  w.now += 3s;
  const auto again = w.watch.due(w.now);
  w.answer(first[0], 1);
  EXPECT_FALSE(w.watch.now()[0].status);
  w.answer(again[0], 2);
  EXPECT_EQ(w.batches(w.watch.now()), 2U);
}

TEST(NodeWatch, ComparesWithAWindowAgo) {
  Watching w;
  for (std::uint64_t second = 0; second < 20; ++second) {
    for (const Outgoing& asked : w.watch.due(w.now)) w.answer(asked, second);
    EXPECT_EQ(w.batches(w.watch.now()), second);
    EXPECT_EQ(w.batches(w.watch.before()), second < 5 ? 0 : second - 5);
    w.now += 1s;
  }
}

TEST(NodeWatch, WhatCameBeforeAnOutageIsNotComparedWith) {
  Watching w;
  w.answer(w.watch.due(w.now)[0], 100);
  w.now += 1s;
  (void)w.watch.due(w.now);
  w.now += 3s;
  w.answer(w.watch.due(w.now)[0], 200);
  EXPECT_EQ(w.batches(w.watch.before()), 200U);
}

TEST(NodeWatch, ARefusalIsTheNodesTrouble) {
  Watching w;
  const auto asked = w.watch.due(w.now);
  wire::Reply refusal;
  refusal.id = asked[0].request.id;
  refusal.error = Error{ErrorCode::kPermission, "not yours"};
  w.watch.on_reply(0, refusal, w.now);
  EXPECT_EQ(w.watch.now()[0].status.error().message, "not yours");
  w.watch.on_reply(1, fail(ErrorCode::kCorrupt, "nonsense"), w.now);
  EXPECT_EQ(w.watch.before()[1].status.error().message, "nonsense");
}

}  // namespace
}  // namespace ds4::ctl
