#include "ipc/server/gate.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace ds4::ipc {

namespace {

constexpr std::size_t kNameBuffer = 16384;  // a group's record lists its members

std::string name_of_group(gid_t gid) {
  std::vector<char> buffer(kNameBuffer);
  struct group record = {};
  struct group* found = nullptr;
  if (::getgrgid_r(gid, &record, buffer.data(), buffer.size(), &found) == 0 && found != nullptr)
    return found->gr_name;
  return std::to_string(gid);
}

std::string name_of_user(uid_t uid) {
  std::vector<char> buffer(kNameBuffer);
  passwd record = {};
  passwd* found = nullptr;
  if (::getpwuid_r(uid, &record, buffer.data(), buffer.size(), &found) == 0 && found != nullptr)
    return found->pw_name;
  return std::to_string(uid);
}

Result<std::vector<gid_t>> peer_groups(int socket) {
  std::vector<gid_t> groups(32);
  for (;;) {
    socklen_t bytes = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    const int rc = ::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes);
    if (rc != 0 && errno != ERANGE) return fail_errno("ask for the groups of a client");
    groups.resize(bytes / sizeof(gid_t));  // the needed number, if it was too small
    if (rc == 0) return groups;
  }
}

}  // namespace

UniqueFd watch_life(int socket, pid_t pid) {
#ifndef SO_PEERPIDFD
  constexpr int SO_PEERPIDFD =
      77;  // since Linux 6.5; without a gap in which the pid could be reused
#endif
  int fd = -1;
  socklen_t bytes = sizeof(fd);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &bytes) == 0) return UniqueFd(fd);
  if (pid <= 0) return UniqueFd();
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

Result<PeerIdentity> identify_peer(int socket) {
  ucred credentials = {};
  socklen_t bytes = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0)
    return fail_errno("ask who a client is");
  PeerIdentity peer{credentials.uid, credentials.gid, credentials.pid, {}};
  DS4_ASSIGN(peer.groups, peer_groups(socket));
  return peer;
}

Result<Gate> Gate::for_group(const std::string& group_name) {
  if (group_name.empty()) return Gate(::geteuid(), ::getegid(), name_of_group(::getegid()));
  std::vector<char> buffer(kNameBuffer);
  struct group record = {};
  struct group* found = nullptr;
  int rc = 0;
  while ((rc = ::getgrnam_r(group_name.c_str(), &record, buffer.data(), buffer.size(), &found)) ==
         ERANGE)
    buffer.resize(buffer.size() * 2);
  if (found == nullptr)
    return fail(ErrorCode::kNotFound,
                fmt::format("the group {} for local programs does not exist; create it (groupadd "
                            "--system {}) or configure another",
                            group_name, group_name));
  return Gate(::geteuid(), found->gr_gid, group_name);
}

std::optional<Refusal> Gate::check(const PeerIdentity& peer) const {
  if (peer.uid == own_uid_ || peer.uid == 0 || peer.gid == group_) return std::nullopt;
  if (std::find(peer.groups.begin(), peer.groups.end(), group_) != peer.groups.end())
    return std::nullopt;
  const std::string user = name_of_user(peer.uid);
  return Refusal{Status::kRefused,
                 fmt::format("user {} is not in the group {}, whose members may use this agent; an "
                             "administrator can change that with: usermod -aG {} {}",
                             user, group_name_, group_name_, user)};
}

}  // namespace ds4::ipc
