#include "engine/residency/residency_audit.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "engine/base/unique_fd.h"
#include "engine/residency/span_map.h"

namespace ds4 {
namespace {

/// A whole file of /proc, whose size is unknown before.
Result<std::string> read_proc(const char* path) {
  const UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno(path);
  std::string text;
  constexpr std::size_t kStep = 64 * 1024;
  while (true) {
    const std::size_t done = text.size();
    text.resize(done + kStep);
    const ssize_t n = ::read(fd.get(), text.data() + done, kStep);
    text.resize(done + static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
    if (n == 0) return text;
    if (n < 0 && errno != EINTR) return fail_errno(path);
  }
}

}  // namespace

bool mincore_is_honest(int fd) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return false;
  if (info.st_uid == ::geteuid()) return true;
  const std::string path = fmt::format("/proc/self/fd/{}", fd);
  return ::faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) == 0;
}

Result<std::uint64_t> incore_bytes(const std::byte* base, const Interval& interval) {
  constexpr std::uint64_t kStepBytes = 256u << 20;
  const std::uint64_t page = system_page_bytes();
  std::vector<unsigned char> present(std::min(kStepBytes, interval.bytes() + page - 1) / page);
  std::uint64_t total = 0;
  for (std::uint64_t at = interval.begin; at < interval.end; at += kStepBytes) {
    const std::uint64_t bytes = std::min(kStepBytes, interval.end - at);
    if (::mincore(const_cast<std::byte*>(base) + at, bytes, present.data()) != 0) {
      return fail_errno(fmt::format("mincore of {} bytes at offset {}", bytes, at));
    }
    for (std::uint64_t done = 0; done < bytes; done += page) {
      if ((present[done / page] & 1u) != 0) total += std::min(page, bytes - done);
    }
  }
  return total;
}

Result<Residency> audit_mapping(const std::byte* base, std::uint64_t reserved_bytes,
                                const SpanCover& cover, std::span<const Interval> claimed,
                                bool believe_mincore) {
  DS4_ASSIGN(const std::string text, read_proc("/proc/self/smaps"));
  DS4_ASSIGN(const auto smaps, parse_smaps(text));
  Residency out =
      account(smaps, reinterpret_cast<std::uintptr_t>(base), reserved_bytes, cover, claimed);
  if (!believe_mincore) return out;
  for (IntervalResidency& one : out.intervals) {
    // mincore calls what is reserved but not mapped absent; smaps is then the better witness.
    DS4_ASSIGN(one.incore_bytes, incore_bytes(base, one.planned));
  }
  out.add_up();
  return out;
}

void reset_peak_rss() {
  const UniqueFd fd(::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC));
  if (fd && ::write(fd.get(), "5", 1) != 1) return;  // the documented fallback: the old peak stays
}

std::uint64_t peak_rss_bytes() {
  const auto text = read_proc("/proc/self/status");
  return text ? parse_status_bytes(*text, "VmHWM").value_or(0) : 0;
}

}  // namespace ds4
