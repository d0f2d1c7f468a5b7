#include "engine/residency/memory_lock.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>

namespace ds4 {
namespace {

std::string mebibytes(std::uint64_t bytes) {
  return fmt::format("{:.2f} MiB", static_cast<double>(bytes) / (1024.0 * 1024.0));
}

std::string reason(int error) {
  rlimit limit = {};
  const bool limited = ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  if ((error == ENOMEM || error == EPERM || error == EAGAIN) && limited) {
    return fmt::format(
        "the limit on locked memory is {}: set LimitMEMLOCK=infinity in the systemd unit, or "
        "ulimit -l unlimited",
        mebibytes(limit.rlim_cur));
  }
  return fmt::format("mlock: {}", std::strerror(error));
}

}  // namespace

Result<void> lock_intervals(const std::byte* base, std::span<const Interval> intervals,
                            LoadRun& run) {
  if (!run.options().lock) {
    run.lock_note = "nothing is locked: locking was not asked for";
    return {};
  }
  std::uint64_t total_bytes = 0;
  std::uint64_t refused_bytes = 0;
  std::size_t refused = 0;
  int error = 0;
  for (const Interval& interval : intervals) {
    total_bytes += interval.bytes();
    if (::mlock(base + interval.begin, interval.bytes()) == 0) continue;
    error = errno;
    refused_bytes += interval.bytes();
    ++refused;
  }
  if (refused == 0) return {};
  run.lock_note = fmt::format(
      "{} of {} ({} of {} intervals) not locked, so they may be evicted: {}",
      mebibytes(refused_bytes), mebibytes(total_bytes), refused, intervals.size(), reason(error));
  if (!run.options().must_lock) return {};
  return fail(ErrorCode::kPermission, run.lock_note);
}

}  // namespace ds4
