#include "ctl/ds4ctl/planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "ctl/ds4ctl/plan_search.h"
#include "engine/base/bytes_text.h"

namespace ds4::ctl {
namespace {

constexpr std::uint64_t kMostBytes = 1ULL << 56;  // sums of kMaxLayers such figures do not overflow
constexpr std::uint64_t kAnyRate = 1'000'000'000;

Result<void> check_offer(const PlanNode& node, std::size_t layers) {
  const wire::NodeOffer& offer = node.offer;
  const auto corrupt = [&](std::string_view what) {
    return fail(ErrorCode::kCorrupt, fmt::format("node {} offers {}", node.name, what));
  };
  if (offer.layers.size() != layers) {
    return corrupt(fmt::format("figures of {} layers, others of {}", offer.layers.size(), layers));
  }
  if (offer.layers.size() < 2) return corrupt("a model without layers");
  std::uint64_t most = std::max({offer.held_bytes, offer.kv_fixed_bytes, offer.scratch_bytes});
  for (const wire::LayerLoad& layer : offer.layers) {
    most = std::max({most, layer.cover_bytes, layer.kv_bytes, layer.decode_bytes, layer.row_macs});
  }
  if (most > kMostBytes / offer.layers.size()) return corrupt("figures that no machine has");
  return {};
}

/// Gives nodes of unknown speed the slowest known one, or all the same.
void assume_speeds(std::vector<PlanNode>& nodes, RoutePlan& plan) {
  std::uint64_t slowest = 0;
  for (const PlanNode& node : nodes) {
    const std::uint64_t rate = node.offer.overall.decode_bytes_per_s;
    if (rate > 0 && (slowest == 0 || rate < slowest)) slowest = rate;
  }
  plan.times_known = slowest > 0;
  for (PlanNode& node : nodes) {
    if (node.offer.overall.decode_bytes_per_s > 0) continue;
    node.offer.overall.decode_bytes_per_s = plan.times_known ? slowest : kAnyRate;
    if (plan.times_known) {
      plan.notes.push_back(
          fmt::format("{}: its speed is not known ({}); counted like the slowest "
                      "other node's",
                      node.name, node.offer.measured));
    }
  }
  if (!plan.times_known) {
    plan.notes.push_back(
        "no node's speed is known, so all count alike: plan again once they hold layers");
  }
}

/// How far the nodes would get, and what that leaves out.
Error nothing_fits(const PlanInput& input, std::uint32_t placed) {
  const std::size_t count = input.nodes.front().offer.layers.size();
  plan::RangeNeed need;
  std::uint64_t least = UINT64_MAX;
  std::uint64_t scratch = 0;
  std::uint64_t budget = 0;
  std::string nodes, held;
  for (const PlanNode& node : input.nodes) {
    wire::NodeOffer blank = node.offer;  // as if nothing served there
    blank.held_bytes = 0;
    for (wire::LayerLoad& layer : blank.layers) layer.held_bytes = 0;
    const plan::RangeNeed whole = plan::need_of(blank, 0, count);
    if (whole.total() < least) {
      least = whole.total();
      need = whole;
    }
    scratch += blank.scratch_bytes;
    const bool limited = node.offer.budget_bytes < UINT64_MAX - budget;
    budget = limited ? budget + node.offer.budget_bytes : wire::kNoLimit;
    nodes += fmt::format("{}{} {}", nodes.empty() ? "" : ", ", node.name,
                         budget_text(node.offer.budget_bytes));
    if (node.offer.held_bytes > 0) held += (held.empty() ? "" : " ") + node.name;
  }
  std::string text = fmt::format(
      "the model needs {} (weights {}, KV cache {}, scratch {}), the nodes hold {} ({})",
      bytes_text(need.total()), bytes_text(need.weight_bytes), bytes_text(need.kv_bytes),
      bytes_text(need.scratch_bytes), budget_text(budget), nodes);
  if (need.total() > budget) {
    text += fmt::format(": add a node that gives {}, free memory, or lower engine.context",
                        bytes_text(need.total() - budget));
  } else {
    text += fmt::format(
        ": enough in sum, but no split by whole layers fits (each node needs its own scratch, {} "
        "in "
        "all): free memory, or lower engine.context or engine.max_rows",
        bytes_text(scratch));
  }
  text += placed == 0 ? "; not even layer 0 finds a place"
                      : fmt::format("; at most layers 0:{} find a place", placed - 1);
  if (!held.empty()) {
    text += fmt::format(
        "; what serves now stays in memory until the new route is loaded: `ds4ctl release {}` "
        "frees it first",
        held);
  }
  return {ErrorCode::kResourceExhausted, std::move(text)};
}

PlannedStage describe_stage(const PlanInput& input, const RouteCosts& costs, const Place& place) {
  const wire::NodeOffer& offer = input.nodes[place.node].offer;
  PlannedStage stage;
  stage.node = place.node;
  const std::size_t begin = place.begin;
  const std::size_t end = costs.end_index(place.end);
  stage.range = {place.begin, place.end - 1, place.end == costs.blocks()};
  stage.need = plan::need_of(offer, begin, end);
  bool rows_known = true;
  for (std::size_t i = begin; i < end; ++i) {
    stage.cover_bytes += offer.layers[i].cover_bytes;
    const double row = plan::row_seconds(offer, offer.layers[i]);
    rows_known = rows_known && (row > 0 || offer.layers[i].row_macs == 0);
    stage.row_s += row;
  }
  if (!rows_known) stage.row_s = 0;
  stage.decode_s = costs.compute_s(place.node, place.begin, place.end);
  return stage;
}

std::string name_slowest(const PlanInput& input, const RouteCosts& costs, const Found& found) {
  for (std::size_t i = 0; i < found.route.size(); ++i) {
    const Place& place = found.route[i];
    const std::string& name = input.nodes[place.node].name;
    if (costs.compute_s(place.node, place.begin, place.end) >= found.slowest_s) return name;
    if (i + 1 == found.route.size()) break;
    const std::size_t next = found.route[i + 1].node;
    if (costs.transfer_s(place.node, next) >= found.slowest_s) {
      return fmt::format("the link from {} to {}", name, input.nodes[next].name);
    }
  }
  return "";
}

/// Why `taker` does not get `layer` from its neighbour as well. Empty: it could.
std::string why_not(const PlanInput& input, const RouteCosts& costs, const Place& wider,
                    std::uint32_t layer, double slowest) {
  const PlanNode& taker = input.nodes[wider.node];
  if (!costs.fits(wider.node, wider.begin, wider.end)) {
    return fmt::format(
        "with layer {} {} would need {} of {}", layer, taker.name,
        bytes_text(plan::need_of(taker.offer, wider.begin, costs.end_index(wider.end)).total()),
        budget_text(taker.offer.budget_bytes));
  }
  const double would = costs.compute_s(wider.node, wider.begin, wider.end);
  if (would <= slowest) return "";
  return fmt::format("with layer {} {} would take {:.3g} ms a token instead of at most {:.3g}",
                     layer, taker.name, would * 1e3, slowest * 1e3);
}

std::string explain_bound(const PlanInput& input, const RouteCosts& costs,
                          const std::vector<Place>& route, std::size_t i, double slowest,
                          bool times_known) {
  const Place& left = route[i];
  const Place& right = route[i + 1];
  const std::string& left_name = input.nodes[left.node].name;
  const std::string& right_name = input.nodes[right.node].name;
  std::vector<std::string> reasons;
  const auto look = [&](const Place& giver, Place wider, std::uint32_t layer) {
    const std::string& name = input.nodes[giver.node].name;
    if (giver.end - giver.begin == 1) {
      reasons.push_back(fmt::format("{} has one layer alone", name));
      return;
    }
    std::string reason = why_not(input, costs, wider, layer, slowest);
    if (!times_known && reason.find(" ms ") != std::string::npos) {
      reason = fmt::format("with layer {} {} would hold more than its even share", layer,
                           input.nodes[wider.node].name);
    }
    if (!reason.empty()) reasons.push_back(std::move(reason));
  };
  look(right, {left.node, left.begin, left.end + 1}, left.end);
  look(left, {right.node, right.begin - 1, right.end}, right.begin - 1);
  if (reasons.empty())
    reasons.emplace_back("a layer more on either side makes no token come sooner");
  return fmt::format("{} ends at layer {} and {} begins at {}: {}", left_name, left.end - 1,
                     right_name, right.begin, fmt::join(reasons, "; "));
}

}  // namespace

const wire::ProbeFigures* PlanInput::link(std::size_t from, std::size_t to) const {
  if (from >= links.size() || to >= links[from].size() || !links[from][to]) return nullptr;
  return &*links[from][to];
}

std::string budget_text(std::uint64_t bytes) {
  return bytes == wire::kNoLimit ? "no limit" : bytes_text(bytes);
}

Result<RoutePlan> plan_route(PlanInput input) {
  if (input.nodes.empty()) return fail(ErrorCode::kInvalidArgument, "no nodes to plan for");
  for (const PlanNode& node : input.nodes) {
    DS4_TRY(check_offer(node, input.nodes.front().offer.layers.size()));
  }
  RoutePlan plan;
  assume_speeds(input.nodes, plan);
  const RouteCosts costs(input);
  const Found found = find_route(costs);
  if (found.route.empty()) return tl::unexpected<Error>(nothing_fits(input, found.placed));

  plan.slowest_s = found.slowest_s;
  plan.token_s = found.token_s;
  plan.slowest = name_slowest(input, costs, found);
  for (std::size_t i = 0; i < found.route.size(); ++i) {
    PlannedStage& stage = plan.stages.emplace_back(describe_stage(input, costs, found.route[i]));
    if (i + 1 == found.route.size()) continue;
    stage.link_s = costs.transfer_s(found.route[i].node, found.route[i + 1].node);
    plan.reasons.push_back(
        explain_bound(input, costs, found.route, i, plan.slowest_s, plan.times_known));
  }
  if (input.nodes.size() > kExactNodes) {
    plan.notes.push_back(
        fmt::format("more than {} nodes: they were tried in the order named", kExactNodes));
  }
  if (!plan.times_known) plan.slowest_s = plan.token_s = 0;
  for (PlannedStage& stage : plan.stages) {
    if (!plan.times_known) stage.decode_s = 0;
  }
  return plan;
}

}  // namespace ds4::ctl
