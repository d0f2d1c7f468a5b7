#pragma once
// The socket that clients connect to, and its place in the file system.
#include <sys/types.h>

#include <string>

#include "engine/base/result.h"
#include "engine/base/unique_fd.h"

namespace ds4::ipc {

/// A listening SOCK_SEQPACKET Unix socket, mode 0660. Move-only; removes its path on destruction if
/// the path is still its own.
class Listener {
 public:
  /// Replaces what a dead agent left behind; a living agent, or a file that is no socket, is an
  /// error. The path is given to `group` where this process may do that (otherwise only its own
  /// user and root can connect).
  static Result<Listener> bind(const std::string& path, gid_t group);
  Listener(Listener&&) noexcept = default;
  Listener& operator=(Listener&&) = delete;
  ~Listener();

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }

 private:
  Listener() = default;
  UniqueFd fd_;
  std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace ds4::ipc
