#pragma once
// `ds4ctl status` as text and as JSON; pure.
#include <span>
#include <string>
#include <vector>

#include "agent/wire/control.h"
#include "ctl/ds4ctl/cluster.h"
#include "engine/base/result.h"

namespace ds4::ctl {

/// A node of the cluster and what it answered; an error means that it could not be reached.
struct NodeView {
  Node node;
  Result<wire::NodeStatus> status;
};

/// A table with one line a node: what a person wants to know first stands first.
std::string status_table(std::span<const NodeView> views, bool colour);

/// {"nodes":[...]}: each as wire::to_json_text has it, plus its "address"; an unreachable node has
/// only name, address, state "unreachable" and detail. indent < 0: one line.
std::string status_json(std::span<const NodeView> views, int indent);

bool all_reachable(std::span<const NodeView> views);

}  // namespace ds4::ctl
