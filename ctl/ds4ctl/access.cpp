#include "ctl/ds4ctl/access.h"

#include <fmt/format.h>

namespace ds4::ctl {
namespace {

/// None if no agent was ever started on this machine.
Result<std::optional<keys::NodeCard>> local_card(const std::string& state_dir) {
  auto card = keys::load_card(state_dir);
  if (card) return *std::move(card);
  if (card.error().code == ErrorCode::kNotFound) return std::nullopt;
  return fail(std::move(card).error(), "this machine's agent");
}

Result<keys::KeyPair> load_identity(const std::string& state_dir) {
  auto key = keys::load_key(state_dir, keys::KeyRole::kOperator);
  if (key) return key;
  Error error = std::move(key).error();
  if (error.code == ErrorCode::kNotFound) {
    error.message +=
        ": ds4d makes it when it starts; on a machine without an agent, run `ds4ctl "
        "--state-dir DIR keys create`";
  } else if (error.code == ErrorCode::kPermission) {
    error.message +=
        "; commanding agents takes this key: run ds4ctl as root, or as a user who was "
        "given it";
  }
  return tl::unexpected<Error>(std::move(error));
}

Result<Access> identify(Cluster cluster, const std::string& state_dir) {
  Access access{std::move(cluster), {}};
  if (access.cluster.insecure) return access;
  DS4_ASSIGN(access.identity, load_identity(state_dir));
  return access;
}

Cluster local_cluster() {
  return {{Node{kLocalNodeName, kLocalNodeAddress, true}}, "this machine"};
}

}  // namespace

std::string state_dir_of(const Invocation& invocation) {
  return invocation.state_dir.empty() ? kDefaultStateDir : invocation.state_dir;
}

Result<Cluster> complete_cluster(Cluster cluster, const std::optional<keys::NodeCard>& card) {
  for (Node& node : cluster.nodes) {
    if (node.unnamed && card) {
      node.address = card->address;
      cluster.insecure = !card->key;
    }
    if (cluster.insecure || node.key) continue;
    if (card && card->key && (node.unnamed || card->name == node.name)) {
      node.key = card->key;
      continue;
    }
    if (node.unnamed) {
      return fail(ErrorCode::kNotFound,
                  "no agent has been started on this machine, and there is no cluster file: start "
                  "ds4d, or name one with --cluster (or the agent's --state-dir)");
    }
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{}: node {} has no key: write {} = {{ address = \"{}\", key = "
                            "\"node:...\" }}, with the key that `ds4ctl keys show` prints on that "
                            "machine",
                            cluster.source, node.name, node.name, node.address));
  }
  return cluster;
}

Result<Access> open_access(const Invocation& invocation) {
  const std::string state_dir = state_dir_of(invocation);
  DS4_ASSIGN(Cluster cluster, load_cluster(invocation.cluster_file));
  DS4_ASSIGN(const std::optional<keys::NodeCard> card, local_card(state_dir));
  DS4_ASSIGN(cluster, complete_cluster(std::move(cluster), card));
  return identify(std::move(cluster), state_dir);
}

Result<Access> open_local_access(const Invocation& invocation) {
  const std::string state_dir = state_dir_of(invocation);
  DS4_ASSIGN(const std::optional<keys::NodeCard> card, local_card(state_dir));
  DS4_ASSIGN(Cluster cluster, complete_cluster(local_cluster(), card));
  return identify(std::move(cluster), state_dir);
}

}  // namespace ds4::ctl
