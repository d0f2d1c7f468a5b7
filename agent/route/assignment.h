#pragma once
// An assignment: one node's place in one epoch's route, checked as a whole before anything is
// loaded.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/wire/control.h"
#include "engine/base/result.h"
#include "engine/residency/layer_range.h"

namespace ds4::agent {

struct Assignment {
  std::uint64_t epoch = 0;
  std::string fingerprint;             // of the model file
  std::vector<wire::StageSpec> route;  // first stage to last
  std::uint32_t index = 0;             // this node's stage

  const wire::StageSpec& own() const { return route[index]; }
  bool operator==(const Assignment&) const = default;
};

/// What a node knows of itself and of its model file, without any assignment.
struct NodeFacts {
  std::string name;
  std::string model;  // path
  std::string fingerprint;
  std::uint32_t block_count = 0;
  std::string key = {};  // this agent's public key; empty: it links without encryption
};

/// The whole route, from the request and this node's own facts alone: the node names itself, the
/// model is the same file, the ranges go from layer 0 to the output head without gap or overlap,
/// names, addresses and keys are distinct and usable, and the node's own key is right. An empty
/// fingerprint becomes the node's own.
/// Errors: kMismatch, kInvalidArgument, kOutOfRange, kNotFound; each names node and range.
Result<Assignment> check_prepare(const wire::PrepareRequest& request, const NodeFacts& facts);

/// The same for an assignment that was kept over a restart: the node or the model may have changed.
Result<void> check_restored(const Assignment& assignment, const NodeFacts& facts);

/// The range of a stage of a checked assignment.
LayerRange range_of(const Assignment& assignment, std::uint32_t block_count);

/// "tcp://host:port", host not empty, port 1..65535.
Result<void> check_address(std::string_view address);

/// What a restart must not lose.
struct Ledger {
  std::uint64_t highest_epoch = 0;  // ever prepared here; a new one must be above it
  std::optional<Assignment> assignment;
  bool operator==(const Ledger&) const = default;
};

/// As if epoch 1 had given this node the whole model: the first `ds4ctl assign` or `release`
/// replaces it for good.
Ledger standalone_ledger(const NodeFacts& facts);

}  // namespace ds4::agent
