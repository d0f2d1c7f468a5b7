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

std::string lock_cover(const std::byte* base, const SpanCover& cover) {
  std::uint64_t refused_bytes = 0;
  std::size_t refused = 0;
  int error = 0;
  for (const Interval& interval : cover.intervals()) {
    if (::mlock(base + interval.begin, interval.bytes()) == 0) continue;
    error = errno;
    refused_bytes += interval.bytes();
    ++refused;
  }
  if (refused == 0) return {};
  return fmt::format("{} of {} ({} of {} intervals) not locked, so they may be evicted: {}",
                     mebibytes(refused_bytes), mebibytes(cover.cover_bytes()), refused,
                     cover.intervals().size(), reason(error));
}

}  // namespace ds4
