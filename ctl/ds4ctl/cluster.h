#pragma once
// The cluster file: which nodes there are and where their agents listen.
//
//   # /etc/ds4d/cluster.toml
//   [nodes]
//   alpha = "tcp://10.0.0.1:7341"  # the agent of this machine needs no key here
//   beta = { address = "tcp://10.0.0.2:7341", key = "node:4f0c..." }
//
// The key is what `ds4ctl keys show` prints on that machine: whoever answers at the address without
// having it is not that node. If all agents run with insecure = true, so must the file say, above
// [nodes]; then it holds no keys.
//
// Nothing else may stand in it: a key that we do not know is a typing error that would otherwise be
// obeyed by silence, so it is refused, by name and line.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/keys/key.h"
#include "engine/base/result.h"

namespace ds4::ctl {

inline constexpr const char* kDefaultClusterFile = "/etc/ds4d/cluster.toml";
/// Of the one agent on this machine, when there is no cluster file.
inline constexpr const char* kLocalNodeName = "local";
inline constexpr const char* kLocalNodeAddress = "tcp://127.0.0.1:7341";
inline constexpr std::size_t kMaxClusterBytes = 1u << 20;

struct Node {
  std::string name;
  std::string address;  // tcp://host:port
  /// The name is ours, not the cluster file's: whatever the agent calls itself is right.
  bool unnamed = false;
  std::optional<keys::PublicKey> key = {};  // the agent's
  bool operator==(const Node&) const = default;
};

struct Cluster {
  std::vector<Node> nodes;  // in the order of the file
  std::string source;       // the file's path, or a phrase for messages
  bool insecure = false;    // agents without keys

  /// Errors: kInvalidArgument naming the node, the file and the nodes that exist.
  Result<Node> find(std::string_view name) const;
};

/// The nodes of these names; without names all of the cluster. Errors: those of find(),
/// kInvalidArgument for a node named twice.
Result<std::vector<Node>> chosen_nodes(const Cluster& cluster,
                                       const std::vector<std::string>& names);

/// Pure; `path` is for messages ("cluster.toml:3: ..."). Errors: kCorrupt.
Result<Cluster> parse_cluster(std::string_view text, const std::string& path);

/// Reads `path`; if that is empty, kDefaultClusterFile. Without such a file: one unnamed local node
/// at kLocalNodeAddress.
Result<Cluster> load_cluster(const std::string& path);

/// Checks tcp://host:port. Errors: kInvalidArgument with the form that is accepted.
Result<void> check_address(std::string_view address);

}  // namespace ds4::ctl
