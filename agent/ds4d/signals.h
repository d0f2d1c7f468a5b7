#pragma once
// SIGTERM and SIGINT (stop) and SIGHUP (read the configuration again) as something to poll.
#include <optional>

#include "engine/base/result.h"
#include "engine/base/unique_fd.h"

namespace ds4::agent {

enum class Wish { kStop, kReload };

class Signals {
 public:
  /// Call before any thread exists: the signals are blocked in this thread and all that follow.
  static Result<Signals> block();
  int fd() const { return fd_.get(); }
  /// What the next signal that has arrived asks for. After kStop the next SIGTERM or SIGINT kills
  /// the process, in case the orderly way hangs.
  std::optional<Wish> take();

 private:
  UniqueFd fd_;
};

}  // namespace ds4::agent
