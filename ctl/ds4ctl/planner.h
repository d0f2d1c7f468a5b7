#pragma once
// Who should hold which layers: proposes a route over nodes that offer memory and speed. Pure.
//
// A pipeline brings out a token as often as its slowest part lets one through, however many parts
// there are, so the slowest stage or link of a decoded token is what is made as short as can be;
// memory is a limit and never a cost. The order of layers is the model's, the order of nodes is
// free, and a node may be left out. Routes whose slowest part is within two per cent of the best
// count as equally fast, since no measurement is better than that; of these the one with the fewest
// nodes is taken, as each hop lengthens the way of a single token; of those the one that loads the
// fewest bytes anew, then the one through which a single token passes soonest, then nodes in the
// order in which they were named.
//
// The hard idea: how the rest of a route looks depends on nothing but which nodes are used up,
// which came last, and how many layers are placed. So the best route to each such state is found
// once, from smaller states (dynamic programming), and the result is exact: over all subsets and
// orders of up to kExactNodes nodes. With more, nodes keep the order in which they were named, and
// any of them may be left out.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/plan/range_cost.h"
#include "agent/wire/offer.h"
#include "engine/base/result.h"
#include "engine/residency/layer_range.h"

namespace ds4::ctl {

inline constexpr std::size_t kExactNodes = 8;
/// Slowest parts that differ by no more are alike.
inline constexpr double kMargin = 0.02;

struct PlanNode {
  std::string name;
  wire::NodeOffer offer;
};

struct PlanInput {
  std::vector<PlanNode> nodes;
  /// links[i][j]: the way from node i to node j. None: not measured, so it counts as free. May be
  /// empty as a whole.
  std::vector<std::vector<std::optional<wire::ProbeFigures>>> links;

  const wire::ProbeFigures* link(std::size_t from, std::size_t to) const;
};

struct PlannedStage {
  std::size_t node = 0;  // index into the input
  LayerRange range;
  std::uint64_t cover_bytes = 0;
  plan::RangeNeed need;
  // Seconds; 0 if no node's speed is known.
  double decode_s = 0;  // computing one token
  double row_s = 0;     // computing one row of a prefill; 0 also if not measured
  double link_s = 0;    // one row's streams on the way to the next stage; of the last stage 0
};

struct RoutePlan {
  std::vector<PlannedStage> stages;
  double slowest_s = 0;  // stage or link
  std::string slowest;   // which one it is
  double token_s = 0;    // all stages and links, one after another, and the token's way back
  bool times_known = true;
  /// Why each boundary between two stages is where it is, in order.
  std::vector<std::string> reasons;
  /// What was assumed.
  std::vector<std::string> notes;
};

/// Errors: kResourceExhausted with the figures and the ways out if no route fits; kCorrupt for an
/// offer that cannot be; kInvalidArgument without nodes.
Result<RoutePlan> plan_route(PlanInput input);

/// "24.00 GiB", or that there is no limit.
std::string budget_text(std::uint64_t bytes);

}  // namespace ds4::ctl
