#pragma once
// SIGTERM and SIGINT as something to poll.
#include "engine/base/result.h"
#include "engine/base/unique_fd.h"

namespace ds4::agent {

class StopSignals {
 public:
  /// Call before any thread exists: the signals are blocked in this thread and all that follow.
  static Result<StopSignals> block();
  int fd() const { return fd_.get(); }
  /// True if one has arrived. From then on the next one kills the process, in case the orderly way
  /// hangs.
  bool take();

 private:
  UniqueFd fd_;
};

}  // namespace ds4::agent
