#pragma once
// A plan for real agents: asks them what they offer, has them measure the ways between them, and
// gives both to the planner. For `ds4ctl plan` and `ds4ctl assign --auto`.
#include <chrono>
#include <span>
#include <string>
#include <vector>

#include "ctl/ds4ctl/access.h"
#include "ctl/ds4ctl/assign_plan.h"
#include "ctl/ds4ctl/planner.h"

namespace ds4::ctl {

struct ProposalOptions {
  std::vector<std::string> names;  // of nodes; none: the whole cluster
  std::string model;               // a GGUF file; empty: the one that the agents have
  bool measure = false;            // speeds anew
};

struct Proposal {
  std::vector<Node> nodes;
  std::vector<wire::NodeStatus> statuses;  // of them
  PlanInput input;
  RoutePlan plan;
  /// Nodes that do not have the model planned for.
  std::vector<std::string> without_model;

  std::vector<Wish> wishes() const;
};

/// Errors: agents that do not answer, each with a sentence; those of plan_route(); kMismatch where
/// agents have different models and none was named.
Result<Proposal> propose(const Access& access, const ProposalOptions& options,
                         std::chrono::milliseconds timeout);

}  // namespace ds4::ctl
