#pragma once
// What an assignment asks for, checked in two steps, both pure: before anybody is asked (the words
// on the command line), and with what every node says of itself (model, fingerprint, epoch).
#include <span>
#include <string>
#include <vector>

#include "agent/wire/control.h"
#include "ctl/ds4ctl/cluster.h"
#include "engine/base/result.h"

namespace ds4::ctl {

/// One NODE=RANGE of the command line, its node found in the cluster.
struct Wish {
  Node node;
  std::string layers;  // as typed
};

/// Errors (kInvalidArgument): a word that is not NODE=RANGE, an unknown node, a node named twice.
Result<std::vector<Wish>> read_wishes(const Cluster& cluster, std::span<const std::string> words);

/// That every agent is the node it is taken for, has a model, and is free to prepare. Errors:
/// kMismatch, kUnavailable, naming the node.
Result<void> check_agents(std::span<const Node> nodes, std::span<const wire::NodeStatus> statuses);
/// Errors: kMismatch naming two nodes with different files.
Result<void> check_same_model(std::span<const wire::NodeStatus> statuses);

struct AssignPlan {
  std::uint64_t epoch = 0;
  std::string fingerprint;
  std::vector<wire::StageSpec> route;  // in the order of layers
  std::vector<Node> nodes;             // nodes[i] is asked about route[i]
  /// stale[i]: an epoch that nodes[i] still keeps prepared for a coordinator that is gone; 0: none.
  std::vector<std::uint64_t> stale;
  /// Sentences worth telling before it starts, e.g. of a node that the new route leaves behind.
  std::vector<std::string> notes;
};

/// `statuses[i]` is what wishes[i].node answered. Errors: kMismatch (two fingerprints; a name that
/// is not the agent's own), kUnavailable (no model), kInvalidArgument (ranges that are no whole
/// model).
Result<AssignPlan> plan_assignment(std::span<const Wish> wishes,
                                   std::span<const wire::NodeStatus> statuses);

}  // namespace ds4::ctl
