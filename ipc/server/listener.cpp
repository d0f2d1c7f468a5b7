#include "ipc/server/listener.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace ds4::ipc {

namespace {

constexpr int kBacklog = 512;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path))
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("the socket path '{}' must have 1 to {} bytes", path,
                            sizeof(address.sun_path) - 1));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

Result<UniqueFd> make_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("make the client socket");
  return fd;
}

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

/// Removes a socket at which nobody listens any more.
Result<void> clear_path(const std::string& path, const sockaddr_un& address) {
  struct stat info = {};
  if (::lstat(path.c_str(), &info) != 0)
    return errno == ENOENT ? Result<void>{} : fail_errno("look at " + path);
  if (!S_ISSOCK(info.st_mode))
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} exists and is not a socket; remove it or configure another", path));
  DS4_ASSIGN(UniqueFd probe, make_socket());
  if (::connect(probe.get(), generic(address), sizeof(address)) == 0 || errno == EAGAIN)
    return fail(
        ErrorCode::kUnavailable,
        fmt::format("another agent is serving {}; stop it or configure another path", path));
  if (errno != ECONNREFUSED && errno != ENOENT) return fail_errno("try " + path);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno("remove the stale " + path);
  return {};
}

}  // namespace

Result<Listener> Listener::bind(const std::string& path, gid_t group) {
  DS4_ASSIGN(const sockaddr_un address, address_of(path));
  DS4_TRY(clear_path(path, address));
  Listener listener;
  DS4_ASSIGN(listener.fd_, make_socket());
  if (::bind(listener.fd_.get(), generic(address), sizeof(address)) != 0)
    return fail_errno("bind the client socket " + path);
  listener.path_ = path;
  struct stat info = {};
  if (::lstat(path.c_str(), &info) != 0) return fail_errno("look at " + path);
  listener.device_ = info.st_dev;
  listener.inode_ = info.st_ino;
  // Before listen(): until then nobody can connect, so nobody slips in under the wrong mode.
  if (::chmod(path.c_str(), 0660) != 0) return fail_errno("set the mode of " + path);
  if (info.st_gid != group && ::chown(path.c_str(), static_cast<uid_t>(-1), group) != 0 &&
      errno != EPERM)
    return fail_errno("give " + path + " to its group");
  if (::listen(listener.fd_.get(), kBacklog) != 0) return fail_errno("listen at " + path);
  return listener;
}

Listener::~Listener() {
  struct stat info = {};
  if (fd_ && ::lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_)
    ::unlink(path_.c_str());
}

}  // namespace ds4::ipc
