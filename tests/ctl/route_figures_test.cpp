// Rates out of totals, and how `ds4ctl status --route` shows them.
#include "ctl/ds4ctl/route_figures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "ctl/ds4ctl/route_table.h"
#include "tests/ctl/route_fixture.h"

namespace ds4::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using testing_nodes::route_at_first;
using testing_nodes::route_five_seconds_later;

TEST(RouteFigures, AreTheDifferenceOfTwoLooksByTheNodesOwnClock) {
  const auto now = route_five_seconds_later();
  const RouteFigures figures = route_figures(route_at_first(), now);
  EXPECT_EQ(figures.epoch, 3U);
  ASSERT_THAT(figures.hops, SizeIs(2));
  EXPECT_EQ(figures.tokens_s, 96);
  EXPECT_EQ(figures.prefill_tokens_s, 200);
  const Hop& first = figures.hops[0];
  EXPECT_EQ(first.stage.node, "alpha");
  EXPECT_EQ(first.next, "beta");
  EXPECT_EQ(first.round_trip_ms, 0.45);
  EXPECT_EQ(figures.hops[1].next, "alpha");
  ASSERT_TRUE(first.rates);
  EXPECT_EQ(first.rates->seconds, 5);
  EXPECT_EQ(first.rates->compute_share, 0.5);
  EXPECT_EQ(first.rates->wait_share, 0.2);
  EXPECT_EQ(first.rates->send_share, 0.01);
  EXPECT_EQ(first.rates->queue_ms, 0.12);
  EXPECT_EQ(first.rates->send_ms, 0.1);
  EXPECT_EQ(first.rates->decode_rows_s, 100);
  EXPECT_EQ(first.rates->sent_bytes_s, 1 << 20);
  EXPECT_EQ(first.rates->sent_frames_s, 100);
  EXPECT_EQ(first.rates->received_bytes_s, 0);
}

TEST(RouteFigures, ThereAreNoRatesAcrossARestartOrAnotherEpoch) {
  auto before = route_at_first();
  const auto now = route_five_seconds_later();
  before[1].status->stage.compute_us = 9'000'000;  // of a process that is gone
  EXPECT_FALSE(route_figures(before, now).hops[1].rates);
  EXPECT_FALSE(route_figures(before, now).tokens_s);
  EXPECT_TRUE(route_figures(before, now).prefill_tokens_s);
  before[0].status->epoch = 2;
  EXPECT_FALSE(route_figures(before, now).hops[0].rates);
  EXPECT_FALSE(route_figures(now, now).hops[0].rates);  // no time has passed
  EXPECT_FALSE(route_figures({}, now).hops[0].rates);
}

TEST(RouteFigures, ANodeThatDoesNotAnswerIsAHopAllTheSame) {
  auto now = route_five_seconds_later();
  now[1].status = fail(ErrorCode::kTimeout, "does not answer");
  const RouteFigures figures = route_figures(route_at_first(), now);
  ASSERT_THAT(figures.hops, SizeIs(2));
  EXPECT_EQ(figures.hops[1].now, nullptr);
  EXPECT_EQ(figures.hops[1].trouble, "does not answer");
  EXPECT_FALSE(figures.tokens_s);
  EXPECT_FALSE(all_hops_answer(figures));
  EXPECT_THAT(route_text(figures), HasSubstr("epoch 3: beta does not answer"));
}

TEST(RouteFigures, TheRouteOfTheHighestEpochIsShown) {
  auto now = route_five_seconds_later();
  now[0].status->epoch = 4;
  now[0].status->route.resize(1);
  const RouteFigures figures = route_figures({}, now);
  EXPECT_EQ(figures.epoch, 4U);
  ASSERT_THAT(figures.hops, SizeIs(1));
  EXPECT_EQ(figures.hops[0].next, "");
  EXPECT_FALSE(figures.hops[0].round_trip_ms);
}

TEST(RouteFigures, WithoutARouteThereIsNothing) {
  std::vector<NodeView> views = {
      {testing_nodes::two_nodes().nodes[0], testing_nodes::idle("alpha")}};
  EXPECT_THAT(route_figures(views, views).hops, IsEmpty());
  EXPECT_FALSE(all_hops_answer(route_figures(views, views)));
  EXPECT_EQ(route_text(route_figures(views, views)), "no route: nobody has committed one\n");
}

TEST(UnlistedNodes, AreThoseOfTheRouteThatNobodyNamed) {
  auto views = route_at_first();
  EXPECT_THAT(unlisted_nodes(views), IsEmpty());
  views.pop_back();
  views[0].node = {kLocalNodeName, kLocalNodeAddress, true};
  EXPECT_THAT(unlisted_nodes(views), ElementsAre(Node{"beta", "tcp://10.0.0.2:7341"}));
  views[0].status->route[1].key = "node:nonsense";
  EXPECT_THAT(unlisted_nodes(views), IsEmpty());
}

TEST(RouteText, HasARowForEachHop) {
  const auto now = route_five_seconds_later();
  EXPECT_EQ(
      route_text(route_figures(route_at_first(), now)),
      "epoch 3: ready, 96.0 tokens/s, 200.0 prompt tokens/s, in the last 5.0 s\n"
      "NODE   LAYERS    STATE  COMPUTE  WAIT  SEND    QUEUE  WAITING  DECODE/s  PREFILL/s        "
      "SENT  TO     ROUND TRIP\n"
      "alpha  0:2       ready     50 %  20 %   1 %  0.12 ms        7     100.0      200.0  1.00 "
      "MiB/s  beta      0.45 ms\n"
      "beta   3:output  ready     50 %  20 %   1 %  0.12 ms        7     100.0      200.0  1.00 "
      "MiB/s  alpha     0.55 ms\n");
}

TEST(RouteJson, HasRatesTotalsAndLinksOrNull) {
  auto now = route_five_seconds_later();
  const auto json = nlohmann::json::parse(route_json(route_figures(route_at_first(), now), 2));
  EXPECT_EQ(json.at("epoch"), 3);
  EXPECT_EQ(json.at("tokens_s"), 96);
  const auto& hop = json.at("hops").at(0);
  EXPECT_EQ(hop.at("rates").at("compute_share"), 0.5);
  EXPECT_EQ(hop.at("totals").at("batches"), 500);
  EXPECT_EQ(hop.at("links").at(0).at("round_trip_us"), 450);
  EXPECT_EQ(hop.at("round_trip_ms"), 0.45);
  now[1].status = fail(ErrorCode::kTimeout, "does not answer");
  const std::string line = route_json(route_figures({}, now), -1);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const auto gone = nlohmann::json::parse(line);
  EXPECT_TRUE(gone.at("tokens_s").is_null());
  EXPECT_TRUE(gone.at("hops").at(0).at("rates").is_null());
  EXPECT_EQ(gone.at("hops").at(1).at("state"), "unreachable");
  EXPECT_EQ(gone.at("hops").at(1).at("detail"), "does not answer");
}

}  // namespace
}  // namespace ds4::ctl
