#include "ctl/ds4ctl/plan_search.h"

#include <algorithm>
#include <bit>
#include <compare>
#include <limits>

#include "ctl/ds4ctl/planner.h"

namespace ds4::ctl {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

/// Which nodes a route has used, as a number. Exact: a set of them. Ordered: how many, since a
/// later stage's node is always a later one of the list.
class Usage {
 public:
  explicit Usage(std::size_t nodes) : nodes_(nodes), exact_(nodes <= kExactNodes) {}

  std::size_t states() const { return exact_ ? std::size_t{1} << nodes_ : nodes_ + 1; }
  std::size_t count(std::size_t used) const {
    return exact_ ? static_cast<std::size_t>(std::popcount(used)) : used;
  }
  std::size_t with(std::size_t used, std::size_t node) const {
    return exact_ ? used | std::size_t{1} << node : used + 1;
  }
  bool may_end_with(std::size_t used, std::size_t node) const {
    return exact_ ? (used >> node & 1) != 0 : used >= 1 && node + 1 >= used;
  }
  bool may_add(std::size_t used, std::size_t last, std::size_t node) const {
    return exact_ ? (used >> node & 1) == 0 : node > last;
  }

 private:
  std::size_t nodes_;
  bool exact_;
};

/// Compared in this order.
struct Cost {
  std::uint64_t load_bytes = 0;  // to be made resident anew
  double seconds = kNever;
  auto operator<=>(const Cost&) const = default;
};

constexpr Cost kNoWay{std::numeric_limits<std::uint64_t>::max(), kNever};

/// The best way to a state (nodes used, last node, layers placed), and where it came from.
struct Best {
  Cost cost = kNoWay;
  std::size_t used = 0;
  std::size_t last = 0;
  std::uint32_t placed = 0;  // 0: it is the route's first stage
};

class Search {
 public:
  explicit Search(const RouteCosts& costs) : costs_(costs), usage_(costs.nodes()) {}

  const Usage& usage() const { return usage_; }

  /// Fills the table. With a `limit`, by what is to be loaded and then the sum of a token's times,
  /// over routes whose stages and links all stay within it; without, by the slowest of them.
  void run(double limit, bool by_sum) {
    table_.assign(usage_.states() * costs_.nodes() * (costs_.blocks() + 1), Best{});
    limit_ = limit;
    by_sum_ = by_sum;
    for (std::size_t node = 0; node < costs_.nodes(); ++node) extend({{0, 0}, 0, 0, 0}, node);
    for (std::size_t used = 1; used < usage_.states(); ++used) {
      // Of equal ways the first one found stays, so later names are tried as the later stages.
      for (std::size_t last = costs_.nodes(); last-- > 0;) {
        if (!usage_.may_end_with(used, last)) continue;
        for (std::uint32_t placed = 1; placed < costs_.blocks(); ++placed) {
          const Cost cost = at(used, last, placed).cost;
          if (cost == kNoWay) continue;
          for (std::size_t node = 0; node < costs_.nodes(); ++node) {
            if (usage_.may_add(used, last, node)) extend({cost, used, last, placed}, node);
          }
        }
      }
    }
  }

  const Best& at(std::size_t used, std::size_t last, std::uint32_t placed) const {
    return table_[index(used, last, placed)];
  }

  std::uint32_t most_placed() const {
    std::uint32_t most = 0;
    for (std::size_t i = 0; i < table_.size(); ++i) {
      const auto placed = static_cast<std::uint32_t>(i % (costs_.blocks() + 1));
      if (table_[i].cost != kNoWay) most = std::max(most, placed);
    }
    return most;
  }

  /// The state that places every layer with `count` nodes at the least cost; kNoWay if none.
  Best finish(std::size_t count) const {
    Best best;
    best.placed = costs_.blocks();
    for (std::size_t used = 1; used < usage_.states(); ++used) {
      if (usage_.count(used) != count) continue;
      for (std::size_t last = costs_.nodes(); last-- > 0;) {
        const Cost cost = at(used, last, costs_.blocks()).cost;
        if (cost < best.cost) best = {cost, used, last, costs_.blocks()};
      }
    }
    return best;
  }

  std::vector<Place> route_to(Best state) const {
    std::vector<Place> route;
    while (state.placed > 0) {
      const Best& from = at(state.used, state.last, state.placed);
      route.push_back({state.last, from.placed, state.placed});
      state = from;
    }
    std::reverse(route.begin(), route.end());
    return route;
  }

 private:
  std::size_t index(std::size_t used, std::size_t last, std::uint32_t placed) const {
    return (used * costs_.nodes() + last) * (costs_.blocks() + 1) + placed;
  }

  /// Every stage of `node` that can follow `from`.
  void extend(const Best& from, std::size_t node) {
    double link = 0;
    double hop = 0;
    if (from.placed > 0) {
      link = costs_.transfer_s(from.last, node);
      hop = costs_.hop_s(from.last, node);
    }
    if (link > limit_) return;
    const std::size_t used = usage_.with(from.used, node);
    for (std::uint32_t end = from.placed + 1; end <= costs_.blocks(); ++end) {
      if (!costs_.fits(node, from.placed, end)) return;
      const double stage = costs_.compute_s(node, from.placed, end);
      if (stage > limit_) return;
      const Cost& before = from.cost;
      const Cost cost = by_sum_
                            ? Cost{before.load_bytes + costs_.load_bytes(node, from.placed, end),
                                   before.seconds + hop + stage}
                            : Cost{0, std::max({before.seconds, link, stage})};
      Best& best = table_[index(used, node, end)];
      if (cost < best.cost) best = {cost, from.used, from.last, from.placed};
    }
  }

  const RouteCosts& costs_;
  const Usage usage_;
  std::vector<Best> table_;
  double limit_ = kNever;
  bool by_sum_ = false;
};

}  // namespace

// ---- costs -----------------------------------------------------------------------------------

RouteCosts::RouteCosts(const PlanInput& input)
    : input_(input),
      blocks_(static_cast<std::uint32_t>(input.nodes.front().offer.layers.size() - 1)) {
  for (const PlanNode& node : input.nodes) {
    std::vector<double>& sums = compute_.emplace_back(1, 0.0);
    std::vector<std::uint64_t>& loads = load_.emplace_back(1, 0);
    for (const wire::LayerLoad& layer : node.offer.layers) {
      sums.push_back(sums.back() + plan::decode_seconds(node.offer, layer));
      loads.push_back(loads.back() + layer.cover_bytes -
                      std::min(layer.cover_bytes, layer.held_bytes));
    }
    // A wider range never needs less, so one bound for each first layer says everything.
    std::vector<std::uint32_t>& reach = reach_.emplace_back();
    for (std::uint32_t begin = 0; begin < blocks_; ++begin) {
      std::uint32_t end = begin > 0 ? std::max(begin, reach.back()) : begin;
      while (end < blocks_ && plan::need_of(node.offer, begin, end_index(end + 1)).total() <=
                                  node.offer.budget_bytes) {
        ++end;
      }
      reach.push_back(end);
    }
  }
}

bool RouteCosts::fits(std::size_t node, std::uint32_t begin, std::uint32_t end) const {
  return end <= reach_[node][begin];
}

double RouteCosts::compute_s(std::size_t node, std::uint32_t begin, std::uint32_t end) const {
  return compute_[node][end_index(end)] - compute_[node][begin];
}

std::uint64_t RouteCosts::load_bytes(std::size_t node, std::uint32_t begin,
                                     std::uint32_t end) const {
  return load_[node][end_index(end)] - load_[node][begin];
}

double RouteCosts::transfer_s(std::size_t from, std::size_t to) const {
  const wire::ProbeFigures* link = input_.link(from, to);
  if (link == nullptr || link->bytes_per_s == 0) return 0;
  return static_cast<double>(input_.nodes[from].offer.stream_row_bytes) /
         static_cast<double>(link->bytes_per_s);
}

double RouteCosts::hop_s(std::size_t from, std::size_t to) const {
  const wire::ProbeFigures* link = input_.link(from, to);
  if (link == nullptr) return 0;
  return transfer_s(from, to) + static_cast<double>(link->round_trip_us) / 2e6;
}

double RouteCosts::return_s(std::size_t last, std::size_t first) const {
  const wire::ProbeFigures* link = input_.link(last, first);
  return link == nullptr || last == first ? 0 : static_cast<double>(link->round_trip_us) / 2e6;
}

// ---- the search ------------------------------------------------------------------------------

Found find_route(const RouteCosts& costs) {
  Found found;
  Search search(costs);
  search.run(kNever, /*by_sum=*/false);
  found.placed = search.most_placed();
  std::vector<double> slowest = {kNever};  // by number of nodes
  for (std::size_t count = 1; count <= costs.nodes(); ++count) {
    slowest.push_back(search.finish(count).cost.seconds);
  }
  const double best = *std::min_element(slowest.begin(), slowest.end());
  if (best == kNever) return found;
  const double limit = best * (1 + kMargin);
  const auto chosen =
      std::find_if(slowest.begin(), slowest.end(), [&](double cost) { return cost <= limit; });
  const auto count = static_cast<std::size_t>(chosen - slowest.begin());

  search.run(limit, /*by_sum=*/true);
  found.route = search.route_to(search.finish(count));
  for (std::size_t i = 0; i < found.route.size(); ++i) {
    const Place& place = found.route[i];
    const double stage = costs.compute_s(place.node, place.begin, place.end);
    found.slowest_s = std::max(found.slowest_s, stage);
    found.token_s += stage;
    if (i + 1 == found.route.size()) continue;
    found.slowest_s =
        std::max(found.slowest_s, costs.transfer_s(place.node, found.route[i + 1].node));
    found.token_s += costs.hop_s(place.node, found.route[i + 1].node);
  }
  found.token_s += costs.return_s(found.route.back().node, found.route.front().node);
  return found;
}

}  // namespace ds4::ctl
