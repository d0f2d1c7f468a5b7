#pragma once
// What a load is asked for, what it reports on the way, and what it came to.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "engine/base/result.h"

namespace ds4 {

struct LoadOptions {
  /// Called from the loading thread after each chunk; what was resident before counts as done.
  std::function<void(std::uint64_t bytes_done, std::uint64_t bytes_total)> progress;
  /// Looked at between chunks; the load ends with kCancelled and leaves nothing behind.
  const std::atomic<bool>* cancel = nullptr;
  bool lock = true;        // mlock where the limit allows
  bool must_lock = false;  // fail (kPermission) where it does not
  std::uint64_t chunk_bytes = 8u << 20;
};

/// How the bytes of a cover came to be in memory, and what it took.
struct LoadFigures {
  std::uint64_t kept_bytes = 0;     // were resident before
  std::uint64_t adopted_bytes = 0;  // were left in memory by a former process
  std::uint64_t read_bytes = 0;     // from the file
  std::chrono::nanoseconds took{};
  std::uint64_t peak_rss_bytes = 0;  // VmHWM while it loaded
};

/// Internal to engine/residency: one load under way.
class LoadRun {
 public:
  LoadRun(const LoadOptions& options, std::uint64_t total_bytes, std::uint64_t kept_bytes);

  /// kCancelled if that was asked for. Between chunks.
  Result<void> go_on() const;
  void count_read(std::uint64_t bytes);
  void count_adopted(std::uint64_t bytes);
  /// Whole pages, however large or small the caller's wish.
  std::uint64_t chunk_bytes() const { return chunk_bytes_; }
  const LoadOptions& options() const { return options_; }
  const LoadFigures& figures() const { return figures_; }
  /// Sentences for the operator: "96.00 MiB of ... not locked, ...".
  std::string lock_note;
  std::string store_note;

 private:
  void report();

  const LoadOptions& options_;
  const std::uint64_t total_bytes_;
  const std::uint64_t chunk_bytes_;
  std::uint64_t done_bytes_ = 0;
  LoadFigures figures_;
};

}  // namespace ds4
