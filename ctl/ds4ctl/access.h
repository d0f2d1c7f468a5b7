#pragma once
// How this ds4ctl reaches agents: which there are, what keys they have, and who we are to them.
//
// The keys of this machine are in its agent's state directory. The operator key there is ours; it
// is trusted by the agent of this machine without any ceremony, because who can read the file is
// root, the agent's own user, or somebody whom the administrator gave it to. Other machines' agents
// trust it once `ds4ctl keys trust` there said so.
#include <optional>
#include <string>

#include "agent/keys/key.h"
#include "agent/keys/key_files.h"
#include "ctl/ds4ctl/cluster.h"
#include "ctl/ds4ctl/commands.h"
#include "engine/base/result.h"

namespace ds4::ctl {

inline constexpr const char* kDefaultStateDir = "/var/lib/ds4d";

struct Access {
  Cluster cluster;
  std::optional<keys::KeyPair> identity;  // none: the cluster is insecure
};

std::string state_dir_of(const Invocation& invocation);

/// Gives each node of `cluster` that has no key the one of this machine's agent, where it is that
/// one. `card` is what that agent says of itself, if there is one. Pure. Errors: kInvalidArgument
/// for a node that still has no key, with what to write where.
Result<Cluster> complete_cluster(Cluster cluster, const std::optional<keys::NodeCard>& card);

/// The cluster of --cluster and the identity of --state-dir. Errors name the file and the way out.
Result<Access> open_access(const Invocation& invocation);
/// The same for the agent of this machine alone, whatever the cluster file says.
Result<Access> open_local_access(const Invocation& invocation);

}  // namespace ds4::ctl
