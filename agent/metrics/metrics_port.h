#pragma once
// GET /metrics for the programs of this machine.
//
// Just as much HTTP as a scrape takes: one request a connection, its head bounded, its answer
// written as the reader takes it, and a few seconds for all of it. Nothing here waits, so the main
// loop answers by itself, with what is true at that moment and without locks. A library's server
// would bring threads and a snapshot to guard, for one path that takes one method.
//
// Thread rule: the main loop's thread.
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace ds4::agent {

inline constexpr std::size_t kMaxHeadBytes = 8192;  // of a request
inline constexpr std::size_t kMaxReaders = 16;      // at once; others wait to be accepted
inline constexpr std::chrono::seconds kReaderPatience{5};

/// The whole answer to a request whose head is `head`, its empty line included. `text` is called
/// only if it is wanted. Pure.
std::string answer_metrics(std::string_view head, const std::function<std::string()>& text);

class MetricsPort {
 public:
  /// `address` as of parse_loopback(). `text` outlives the port's calls. Errors: kInvalidArgument
  /// for the address, kUnavailable if the port is taken.
  static Result<std::unique_ptr<MetricsPort>> listen(std::string_view address,
                                                     std::function<std::string()> text);
  ~MetricsPort();

  /// With the port's number.
  const std::string& address() const;
  /// Readable when on_ready() has work.
  int poll_fd() const;
  void on_ready();
  /// Call at least once a second: hangs up on who takes too long.
  void on_time(std::chrono::steady_clock::time_point now);

 private:
  MetricsPort();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4::agent
