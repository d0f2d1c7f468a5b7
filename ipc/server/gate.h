#pragma once
// Who may connect: the agent's own user, root, and the members of one group. The kernel says who is
// at the other end of a Unix socket; nothing that the program itself claims is looked at.
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/base/unique_fd.h"
#include "ipc/validate.h"

namespace ds4::ipc {

/// As of the moment it connected.
struct PeerIdentity {
  uid_t uid = 0;
  gid_t gid = 0;
  pid_t pid = 0;
  std::vector<gid_t> groups;  // supplementary ones
};

/// A descriptor that becomes readable when the peer's process ends, even if a child that it forked
/// keeps the socket open. Empty where the kernel has none to give (before Linux 5.3, or for a
/// process outside our pid namespace): then the socket's hang-up alone tells.
UniqueFd watch_life(int socket, pid_t pid);

/// SO_PEERCRED and SO_PEERGROUPS of a connected Unix socket.
Result<PeerIdentity> identify_peer(int socket);

class Gate {
 public:
  /// `group` by name; empty: the group this process runs as. Errors: kNotFound.
  static Result<Gate> for_group(const std::string& group);
  Gate(uid_t own_uid, gid_t group, std::string group_name)
      : own_uid_(own_uid), group_(group), group_name_(std::move(group_name)) {}

  std::optional<Refusal> check(const PeerIdentity& peer) const;
  gid_t group() const { return group_; }

 private:
  uid_t own_uid_;
  gid_t group_;
  std::string group_name_;
};

}  // namespace ds4::ipc
