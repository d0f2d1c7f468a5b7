#pragma once
// Measured links: asks agents to measure the ways between them, for plans and after an assignment.
#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ctl/ds4ctl/control_client.h"
#include "ctl/ds4ctl/planner.h"

namespace ds4::ctl {

struct LinkSurvey {
  /// As PlanInput::links.
  std::vector<std::vector<std::optional<wire::ProbeFigures>>> links;
  /// A sentence for each way that could not be measured.
  std::vector<std::string> notes;
};

/// Index of the node that measures, index of the one it measures the way to.
using Hop = std::pair<std::size_t, std::size_t>;

/// Every ordered pair of `nodes` (at least two), in rounds in which each agent measures one way and
/// is measured by one. Hops that fail are notes.
LinkSurvey survey_all(ControlTransport& transport, std::span<const Node> nodes,
                      std::chrono::milliseconds timeout);
/// The ways of a route through `nodes` in their order, and the token's way back.
LinkSurvey survey_route(ControlTransport& transport, std::span<const Node> nodes,
                        std::chrono::milliseconds timeout);

/// "0.21 ms, 890 MB/s".
std::string link_text(const wire::ProbeFigures& link);

}  // namespace ds4::ctl
