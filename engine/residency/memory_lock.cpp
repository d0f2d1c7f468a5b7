#include "engine/residency/memory_lock.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>

#include "engine/base/bytes_text.h"

namespace ds4 {
namespace {

std::string reason(int error) {
  rlimit limit = {};
  const bool limited = ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  if ((error == ENOMEM || error == EPERM || error == EAGAIN) && limited) {
    return fmt::format(
        "the limit on locked memory is {}: set LimitMEMLOCK=infinity in the systemd unit, or "
        "ulimit -l unlimited",
        bytes_text(limit.rlim_cur));
  }
  return fmt::format("mlock: {}", std::strerror(error));
}

}  // namespace

Result<void> MemoryLocker::lock(const std::byte* begin, std::uint64_t bytes) {
  if (!run_.options().lock) return {};
  asked_bytes_ += bytes;
  if (::mlock(begin, bytes) == 0) return {};
  error_ = errno;
  refused_bytes_ += bytes;
  if (!run_.options().must_lock) return {};
  conclude();
  return fail(ErrorCode::kPermission, run_.lock_note);
}

void MemoryLocker::conclude() {
  if (!run_.options().lock) {
    run_.lock_note = "nothing is locked: locking was not asked for";
  } else if (refused_bytes_ > 0) {
    run_.lock_note =
        fmt::format("{} of {} not locked, so they may be evicted: {}", bytes_text(refused_bytes_),
                    bytes_text(asked_bytes_), reason(error_));
  }
}

}  // namespace ds4
