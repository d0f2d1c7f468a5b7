#include "ctl/ds4ctl/assign_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "ctl/common/coverage.h"

namespace ds4::ctl {
namespace {

tl::unexpected<Error> invalid(std::string message) {
  return fail(ErrorCode::kInvalidArgument, std::move(message));
}

/// The name that the agent goes by.
const std::string& name_of(const Wish& wish, const wire::NodeStatus& status) {
  return wish.node.unnamed ? status.name : wish.node.name;
}

Result<void> check_agent(const Node& node, const wire::NodeStatus& status) {
  if (!node.unnamed && status.name != node.name) {
    return fail(ErrorCode::kMismatch,
                fmt::format("the agent at {} calls itself '{}', the cluster file calls it '{}': "
                            "give it one name in both",
                            node.address, status.name, node.name));
  }
  if (status.fingerprint.empty() || status.block_count == 0) {
    return fail(ErrorCode::kUnavailable,
                fmt::format("node {} has no model{}{}: set one in its ds4d.toml and restart it",
                            status.name, status.detail.empty() ? "" : ", ", status.detail));
  }
  if (status.state == wire::NodeState::kStopping) {
    return fail(ErrorCode::kUnavailable,
                fmt::format("node {} is stopping: start its agent again first", status.name));
  }
  if (status.preparation && status.preparation->phase == wire::PreparePhase::kLoading) {
    return fail(ErrorCode::kUnavailable,
                fmt::format("node {} is loading epoch {} of another assignment: wait for it or "
                            "interrupt it",
                            status.name, status.preparation->epoch));
  }
  return {};
}

/// Stages of the nodes' present routes that the new one has no place for.
std::vector<std::string> left_behind(const AssignPlan& plan,
                                     std::span<const wire::NodeStatus> statuses) {
  std::vector<std::string> names;
  for (const wire::NodeStatus& status : statuses) {
    for (const wire::StageSpec& old : status.route) {
      const bool stays = std::any_of(plan.route.begin(), plan.route.end(),
                                     [&](const auto& stage) { return stage.node == old.node; });
      if (!stays && std::find(names.begin(), names.end(), old.node) == names.end()) {
        names.push_back(old.node);
      }
    }
  }
  return names;
}

}  // namespace

Result<void> check_agents(std::span<const Node> nodes, std::span<const wire::NodeStatus> statuses) {
  for (std::size_t i = 0; i < nodes.size(); ++i) DS4_TRY(check_agent(nodes[i], statuses[i]));
  return {};
}

Result<void> check_same_model(std::span<const wire::NodeStatus> statuses) {
  const wire::NodeStatus& first = statuses.front();
  for (const wire::NodeStatus& other : statuses.subspan(1)) {
    if (other.fingerprint == first.fingerprint) continue;
    return fail(ErrorCode::kMismatch,
                fmt::format("{} and {} have different model files: {} has {} (fingerprint {}), {} "
                            "has {} (fingerprint {}); copy one file to both",
                            first.name, other.name, first.name, first.model, first.fingerprint,
                            other.name, other.model, other.fingerprint));
  }
  return {};
}

Result<std::vector<Wish>> read_wishes(const Cluster& cluster, std::span<const std::string> words) {
  std::vector<Wish> wishes;
  for (const std::string& word : words) {
    const std::size_t equals = word.find('=');
    if (equals == 0 || equals == std::string::npos || equals + 1 == word.size()) {
      return invalid(
          fmt::format("'{}' is not NODE=RANGE, such as alpha=0:20 or beta=21:output", word));
    }
    DS4_ASSIGN(Node node, cluster.find(std::string_view(word).substr(0, equals)));
    for (const Wish& earlier : wishes) {
      if (earlier.node.name == node.name) {
        return invalid(fmt::format("node {} is named twice ({} and {}): a node owns one range",
                                   node.name, earlier.layers, word.substr(equals + 1)));
      }
    }
    wishes.push_back({std::move(node), word.substr(equals + 1)});
  }
  if (wishes.size() > wire::kMaxStages) {
    return invalid(
        fmt::format("{} nodes; a route has at most {}", wishes.size(), wire::kMaxStages));
  }
  return wishes;
}

Result<AssignPlan> plan_assignment(std::span<const Wish> wishes,
                                   std::span<const wire::NodeStatus> statuses) {
  if (wishes.empty() || wishes.size() != statuses.size()) {
    return invalid("nothing to assign: name at least one NODE=RANGE");
  }
  std::vector<Node> nodes;
  for (const Wish& wish : wishes) nodes.push_back(wish.node);
  DS4_TRY(check_agents(nodes, statuses));
  DS4_TRY(check_same_model(statuses));

  const std::uint64_t blocks = statuses.front().block_count;
  if (blocks > std::numeric_limits<std::uint32_t>::max()) {
    return fail(ErrorCode::kCorrupt,
                fmt::format("node {} reports a model of {} layers", statuses.front().name, blocks));
  }
  const auto block_count = static_cast<std::uint32_t>(blocks);
  std::vector<OwnedRange> owned;
  for (std::size_t i = 0; i < wishes.size(); ++i) {
    auto range = LayerRange::parse(wishes[i].layers, block_count);
    if (!range) return invalid(name_of(wishes[i], statuses[i]) + ": " + range.error().message);
    owned.push_back({name_of(wishes[i], statuses[i]), *range});
  }
  DS4_ASSIGN(const std::vector<OwnedRange> route, check_coverage(owned, block_count));

  AssignPlan plan;
  plan.fingerprint = statuses.front().fingerprint;
  for (const OwnedRange& stage : route) {
    const auto place = std::find_if(owned.begin(), owned.end(), [&](const OwnedRange& one) {
      return one.range == stage.range;  // disjoint, so equal means the same
    });
    const auto index = static_cast<std::size_t>(place - owned.begin());
    const Node& node = wishes[index].node;
    const auto& preparation = statuses[index].preparation;
    plan.route.push_back({stage.owner, node.address, stage.range.to_string(),
                          node.key ? keys::to_text(*node.key) : ""});
    plan.nodes.push_back({stage.owner, node.address, node.unnamed, node.key});
    plan.stale.push_back(preparation ? preparation->epoch : 0);
  }
  for (const wire::NodeStatus& status : statuses) {
    plan.epoch = std::max({plan.epoch, status.epoch, status.highest_epoch});
    if (status.preparation) plan.epoch = std::max(plan.epoch, status.preparation->epoch);
  }
  if (plan.epoch == std::numeric_limits<std::uint64_t>::max()) {
    return fail(ErrorCode::kOutOfRange, "a node reports the last epoch there is");
  }
  ++plan.epoch;
  for (const std::string& name : left_behind(plan, statuses)) {
    plan.notes.push_back(fmt::format(
        "{} is not part of the new route and keeps its layers in memory until `ds4ctl release {}`",
        name, name));
  }
  return plan;
}

}  // namespace ds4::ctl
