#include "ctl/ds4ctl/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

#include "tests/ctl/plan_fixture.h"

namespace ds4::ctl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing_plans::input;
using testing_plans::kLayerBytes;
using testing_plans::link_all;
using testing_plans::offer;

constexpr std::uint64_t kPlenty = 1ULL << 40;

std::vector<std::string> words(const PlanInput& in, const RoutePlan& plan) {
  std::vector<std::string> words;
  for (const PlannedStage& stage : plan.stages) {
    words.push_back(in.nodes[stage.node].name + "=" + stage.range.to_string());
  }
  return words;
}

std::vector<std::string> planned(const PlanInput& in) {
  const auto plan = plan_route(in);
  EXPECT_TRUE(plan.has_value()) << plan.error().message;
  return plan ? words(in, *plan) : std::vector<std::string>();
}

TEST(Planner, GivesOneNodeTheWholeModel) {
  EXPECT_THAT(planned(input({{"a", offer(6, kPlenty)}})), ElementsAre("a=0:output"));
}

TEST(Planner, SplitsEvenlyBetweenEqualNodes) {
  // Six layers and half a one: 4 and 2.5 would be slower than 3 and 3.5.
  EXPECT_THAT(planned(input({{"a", offer(6, kPlenty)}, {"b", offer(6, kPlenty)}})),
              ElementsAre("a=0:2", "b=3:output"));
}

TEST(Planner, GivesAFasterNodeMore) {
  EXPECT_THAT(planned(input({{"slow", offer(9, kPlenty)}, {"fast", offer(9, kPlenty, 2.0)}})),
              ElementsAre("slow=0:2", "fast=3:output"));
}

TEST(Planner, MemoryLimitsTheFasterNode) {
  const PlanInput in =
      input({{"fast", offer(6, 2 * kLayerBytes + 20'000, 4.0)}, {"slow", offer(6, kPlenty)}});
  const auto plan = plan_route(in);
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  EXPECT_THAT(words(in, *plan), ElementsAre("fast=0:1", "slow=2:output"));
  EXPECT_THAT(
      plan->reasons,
      ElementsAre(AllOf(HasSubstr("fast ends at layer 1"), HasSubstr("slow begins at 2"),
                        HasSubstr("with layer 2 fast would need 1.47 MiB of 1019.53 KiB"))));
}

TEST(Planner, LeavesOutANodeThatMakesNothingFaster) {
  // One layer cannot be divided: the second node has nothing to take.
  EXPECT_THAT(planned(input({{"a", offer(1, kPlenty)}, {"b", offer(1, kPlenty)}})),
              ElementsAre("a=0:output"));
  // A node behind so slow a link that sending takes longer than computing everything.
  PlanInput far = input({{"a", offer(4, kPlenty)}, {"b", offer(4, kPlenty)}});
  link_all(far, 100'000, 100'000);
  EXPECT_THAT(planned(far), ElementsAre("a=0:output"));
}

TEST(Planner, OrdersNodesByTheirLinks) {
  PlanInput in = input({{"a", offer(9, 4 * kLayerBytes)},
                        {"b", offer(9, 4 * kLayerBytes)},
                        {"c", offer(9, 4 * kLayerBytes)}});
  link_all(in, 10'000, 1'000'000'000);
  for (const auto& [from, to] : {std::pair{0, 2}, {2, 1}}) in.links[from][to]->round_trip_us = 100;
  const auto order = planned(in);
  ASSERT_EQ(order.size(), 3U);
  EXPECT_THAT(order, ElementsAre(HasSubstr("a="), HasSubstr("c="), HasSubstr("b=")));
}

TEST(Planner, CountsATokensWholeWay) {
  PlanInput in = input({{"a", offer(6, kPlenty)}, {"b", offer(6, kPlenty)}});
  link_all(in, 200, 4'096'000);  // a row of 4,096 bytes takes a millisecond
  const auto plan = plan_route(in);
  ASSERT_TRUE(plan.has_value());
  EXPECT_NEAR(plan->slowest_s, 3.5e-3, 1e-9);
  EXPECT_NEAR(plan->token_s, 6.5e-3 + 1e-3 + 0.1e-3 + 0.1e-3, 1e-9);
  EXPECT_NEAR(plan->stages[0].link_s, 1e-3, 1e-9);
  EXPECT_NEAR(plan->stages[1].row_s, 3.5 * 2e-4, 1e-9);
}

TEST(Planner, LeavesLayersWhereTheyAreIfThatIsAsFast) {
  PlanInput in = input({{"a", offer(6, kPlenty)}, {"b", offer(6, kPlenty, 1.01)}});
  EXPECT_THAT(planned(in), ElementsAre("a=0:2", "b=3:output"));
  for (std::size_t i = 0; i < 3; ++i) in.nodes[1].offer.layers[i].held_bytes = kLayerBytes;
  in.nodes[1].offer.held_bytes = 3 * kLayerBytes;
  EXPECT_THAT(planned(in), ElementsAre("b=0:2", "a=3:output"));
}

TEST(Planner, CountsWhatServesUntilTheCommit) {
  // Two layers held, two others wanted: four must be there at once.
  wire::NodeOffer held = offer(4, 3 * kLayerBytes + 20'000);
  held.held_bytes = 2 * kLayerBytes;
  held.layers[2].held_bytes = held.layers[3].held_bytes = kLayerBytes;
  const PlanInput in = input({{"a", held}, {"b", offer(4, 2 * kLayerBytes + 20'000)}});
  EXPECT_THAT(planned(in), ElementsAre("b=0:1", "a=2:output"));
}

TEST(Planner, RefusesWithTheFiguresWhatFitsNowhere) {
  PlanInput in = input({{"a", offer(6, 2 * kLayerBytes)}, {"b", offer(6, kLayerBytes)}});
  auto plan = plan_route(in);
  ASSERT_FALSE(plan.has_value());
  EXPECT_EQ(plan.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(
      plan.error().message,
      AllOf(HasSubstr("the model needs 3.19 MiB"), HasSubstr("the nodes hold 1.46 MiB"),
            HasSubstr("a 1000.00 KiB, b 500.00 KiB"), HasSubstr("add a node that gives 1.72 MiB"),
            HasSubstr("lower engine.context"), testing::Not(HasSubstr("release"))));
  in.nodes[0].offer.held_bytes = kLayerBytes;
  EXPECT_THAT(plan_route(in).error().message, HasSubstr("`ds4ctl release a` frees it"));
}

TEST(Planner, RefusesWhatFitsInSumButNotByLayers) {
  const PlanInput in =
      input({{"a", offer(4, 5 * kLayerBytes / 2)}, {"b", offer(4, 5 * kLayerBytes / 2 - 100'000)}});
  const auto plan = plan_route(in);
  ASSERT_FALSE(plan.has_value());
  EXPECT_THAT(plan.error().message, AllOf(HasSubstr("no split by whole layers fits"),
                                          HasSubstr("at most layers 0:2 find a place")));
}

TEST(Planner, CountsUnknownSpeedsLikeTheSlowestKnown) {
  PlanInput in = input({{"a", offer(6, kPlenty)}, {"gpu", offer(6, kPlenty)}});
  in.nodes[1].offer.overall = {};
  in.nodes[1].offer.measured = "not measured: the GPU holds no layers yet";
  auto plan = plan_route(in);
  ASSERT_TRUE(plan.has_value());
  EXPECT_THAT(words(in, *plan), ElementsAre("a=0:2", "gpu=3:output"));
  EXPECT_THAT(plan->notes, ElementsAre(AllOf(HasSubstr("gpu: its speed is not known"),
                                             HasSubstr("holds no layers yet"))));
  in.nodes[0].offer.overall = {};
  plan = plan_route(in);
  ASSERT_TRUE(plan.has_value());
  EXPECT_FALSE(plan->times_known);
  EXPECT_EQ(plan->slowest_s, 0);
  EXPECT_THAT(words(in, *plan), ElementsAre("a=0:2", "gpu=3:output"));
}

TEST(Planner, UsesTheRateOfALayersKind) {
  PlanInput in = input({{"a", offer(4, kPlenty)}, {"b", offer(4, kPlenty)}});
  for (PlanNode& node : in.nodes) {
    node.offer.layers[0].kind = 128;  // and four times as slow as the others
    node.offer.rates = {{128, 250'000'000, 0}};
  }
  EXPECT_THAT(planned(in), ElementsAre("a=0:0", "b=1:output"));
}

TEST(Planner, ManyNodesKeepTheirOrder) {
  std::vector<PlanNode> nodes;
  for (int i = 0; i < 12; ++i) {
    nodes.push_back({"n" + std::to_string(i), offer(24, 3 * kLayerBytes)});
  }
  const PlanInput in = input(nodes);
  const auto plan = plan_route(in);
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  for (std::size_t i = 1; i < plan->stages.size(); ++i) {
    EXPECT_LT(plan->stages[i - 1].node, plan->stages[i].node);
  }
  EXPECT_THAT(plan->notes, ElementsAre(HasSubstr("in the order named")));
}

TEST(Planner, TriesAllOrdersOfEightNodesOfALargeModel) {
  std::vector<PlanNode> nodes;
  for (int i = 0; i < 8; ++i) {
    // Later ones are faster and smaller.
    nodes.push_back({"n" + std::to_string(i),
                     offer(61, static_cast<std::uint64_t>(20 - i) * kLayerBytes, 1 + i)});
  }
  PlanInput in = input(nodes);
  link_all(in, 100, 1'000'000'000);
  const auto plan = plan_route(in);
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  std::uint32_t placed = 0;
  for (const PlannedStage& stage : plan->stages) {
    EXPECT_EQ(stage.range.first, placed);
    EXPECT_LE(stage.need.total(), in.nodes[stage.node].offer.budget_bytes);
    placed = stage.range.last + 1;
  }
  EXPECT_EQ(placed, 61U);
  EXPECT_THAT(plan->notes, IsEmpty());
}

TEST(Planner, RefusesOffersThatCannotBe) {
  EXPECT_EQ(plan_route({}).error().code, ErrorCode::kInvalidArgument);
  PlanInput in = input({{"a", offer(4, kPlenty)}, {"b", offer(5, kPlenty)}});
  EXPECT_EQ(plan_route(in).error().code, ErrorCode::kCorrupt);
  in = input({{"a", offer(0, kPlenty)}});
  EXPECT_EQ(plan_route(in).error().code, ErrorCode::kCorrupt);
  in = input({{"a", offer(4, kPlenty)}});
  in.nodes[0].offer.layers[2].cover_bytes = ~0ULL;
  EXPECT_THAT(plan_route(in).error().message, HasSubstr("node a offers figures"));
}

// ---- against every split there is ------------------------------------------------------------

struct Judged {
  double slowest = std::numeric_limits<double>::infinity();
  double sum = std::numeric_limits<double>::infinity();
  std::uint64_t load_bytes = 0;
};

double transfer_s(const PlanInput& in, std::size_t from, std::size_t to) {
  const auto* link = in.link(from, to);
  return static_cast<double>(in.nodes[from].offer.stream_row_bytes) /
         static_cast<double>(link->bytes_per_s);
}

/// Of this order of nodes cut at these layers; infinite if it does not fit.
Judged judge(const PlanInput& in, const std::vector<std::size_t>& order,
             const std::vector<std::size_t>& cuts) {
  const std::size_t blocks = in.nodes[0].offer.layers.size() - 1;
  Judged judged{0, 0, 0};
  for (std::size_t i = 0; i < order.size(); ++i) {
    const wire::NodeOffer& node = in.nodes[order[i]].offer;
    const std::size_t begin = i == 0 ? 0 : cuts[i - 1];
    const std::size_t end = i + 1 == order.size() ? blocks + 1 : cuts[i];
    if (plan::need_of(node, begin, end).total() > node.budget_bytes) return {};
    double stage = 0;
    for (std::size_t l = begin; l < end; ++l) {
      stage += plan::decode_seconds(node, node.layers[l]);
      judged.load_bytes += node.layers[l].cover_bytes - node.layers[l].held_bytes;
    }
    judged.slowest = std::max(judged.slowest, stage);
    judged.sum += stage;
    if (i + 1 == order.size()) continue;
    const double link = transfer_s(in, order[i], order[i + 1]);
    judged.slowest = std::max(judged.slowest, link);
    judged.sum += link + static_cast<double>(in.link(order[i], order[i + 1])->round_trip_us) / 2e6;
  }
  return judged;
}

/// Calls `look` with every order of every `count` nodes and every way to cut `blocks` layers.
template <typename Look>
void each_route(std::size_t nodes, std::size_t count, std::size_t blocks, Look&& look) {
  std::vector<std::size_t> all(nodes);
  std::iota(all.begin(), all.end(), 0);
  do {
    const std::vector<std::size_t> order(all.begin(), all.begin() + static_cast<long>(count));
    std::vector<bool> cut(blocks - 1);
    std::fill_n(cut.begin(), count - 1, true);
    do {
      std::vector<std::size_t> cuts;
      for (std::size_t i = 0; i < cut.size(); ++i) {
        if (cut[i]) cuts.push_back(i + 1);
      }
      look(order, cuts);
    } while (std::prev_permutation(cut.begin(), cut.end()));
  } while (std::next_permutation(all.begin(), all.end()));
}

PlanInput random_input(std::mt19937& random) {
  const auto pick = [&](std::uint64_t from, std::uint64_t to) {
    return std::uniform_int_distribution<std::uint64_t>(from, to)(random);
  };
  const std::size_t nodes = pick(1, 4);
  const auto blocks = static_cast<std::uint32_t>(pick(nodes, 6));
  std::vector<wire::LayerLoad> layers = offer(blocks, 0).layers;
  for (wire::LayerLoad& layer : layers) {
    layer.kind = pick(0, 1) * 4;
    layer.cover_bytes = pick(1, 9) * 4096;
    layer.decode_bytes = pick(1, 1000) * 1000;
  }
  std::vector<PlanNode> made;
  std::uint64_t whole = 0;
  for (const auto& layer : layers) whole += layer.cover_bytes;
  for (std::size_t i = 0; i < nodes; ++i) {
    wire::NodeOffer one = offer(blocks, pick(whole / nodes / 2, 2 * whole));
    one.layers = layers;
    one.scratch_bytes = pick(0, 4096);
    for (wire::LayerLoad& layer : one.layers) {
      if (pick(0, 3) != 0) continue;
      layer.held_bytes = layer.cover_bytes;
      one.held_bytes += layer.cover_bytes;
    }
    one.overall.decode_bytes_per_s = pick(1, 20) * 50'000'000;
    if (pick(0, 1) == 1) one.rates = {{4, pick(1, 20) * 50'000'000, 0}};
    made.push_back({std::string(1, static_cast<char>('a' + i)), one});
  }
  PlanInput in = input(made);
  link_all(in, 0, 0);
  for (auto& from : in.links) {
    for (auto& link : from) {
      if (link) link = wire::ProbeFigures{pick(50, 5000), pick(1, 400) * 100'000, 4096};
    }
  }
  return in;
}

TEST(PlannerProperty, NoSplitOfAnyOrderIsBetterAndNoBudgetIsExceeded) {
  std::mt19937 random(20251);
  int feasible = 0, refused = 0;
  for (int round = 0; round < 300; ++round) {
    const PlanInput in = random_input(random);
    const std::size_t nodes = in.nodes.size();
    const std::size_t blocks = in.nodes[0].offer.layers.size() - 1;
    std::vector<double> slowest;  // by number of nodes, less one
    for (std::size_t count = 1; count <= nodes; ++count) {
      double best = std::numeric_limits<double>::infinity();
      each_route(nodes, count, blocks, [&](const auto& order, const auto& cuts) {
        best = std::min(best, judge(in, order, cuts).slowest);
      });
      slowest.push_back(best);
    }
    const double best = *std::min_element(slowest.begin(), slowest.end());
    const auto plan = plan_route(in);
    ASSERT_EQ(plan.has_value(), best < std::numeric_limits<double>::infinity()) << round;
    if (!plan) {
      ++refused;
      continue;
    }
    ++feasible;
    std::vector<std::size_t> order, cuts;
    for (const PlannedStage& stage : plan->stages) {
      const wire::NodeOffer& node = in.nodes[stage.node].offer;
      EXPECT_LE(stage.need.total(), node.budget_bytes) << round;
      EXPECT_EQ(stage.range.first, order.empty() ? 0 : cuts.back()) << round;
      order.push_back(stage.node);
      cuts.push_back(stage.range.last + 1);
    }
    EXPECT_EQ(cuts.back(), blocks);
    EXPECT_TRUE(plan->stages.back().range.output);
    const Judged found = judge(in, order, cuts);
    EXPECT_NEAR(found.slowest, plan->slowest_s, 1e-12);
    const double limit = best * (1 + kMargin);
    EXPECT_LE(found.slowest, limit) << round;
    const auto fewest =
        std::find_if(slowest.begin(), slowest.end(), [&](double cost) { return cost <= limit; });
    EXPECT_EQ(order.size(), static_cast<std::size_t>(fewest - slowest.begin()) + 1) << round;
    // Of the others that are as fast, none loads less, or lets a token pass sooner with as much.
    each_route(nodes, order.size(), blocks, [&](const auto& other, const auto& at) {
      const Judged judged = judge(in, other, at);
      if (judged.slowest > limit) return;
      EXPECT_GE(judged.load_bytes, found.load_bytes) << round;
      if (judged.load_bytes == found.load_bytes) {
        EXPECT_GE(judged.sum, found.sum * (1 - 1e-9)) << round;
      }
    });
  }
  EXPECT_GT(feasible, 100);
  EXPECT_GT(refused, 10);
}

}  // namespace
}  // namespace ds4::ctl
