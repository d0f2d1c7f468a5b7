#include "engine/residency/span_map.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <utility>

#include "engine/base/checked.h"

// Younger than the C library's headers on some systems we build on.
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

namespace ds4 {

std::uint64_t system_page_bytes() {
  static const auto bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

Result<SpanMap> SpanMap::reserve(std::uint64_t file_bytes) {
  const std::uint64_t page = system_page_bytes();
  const auto padded = checked_add(file_bytes, page - 1 + kHugePageBytes);
  if (!padded || file_bytes == 0) return fail(ErrorCode::kInvalidArgument, "no bytes to map");
  const std::uint64_t reserved_bytes = (file_bytes + page - 1) & ~(page - 1);
  const std::uint64_t asked_bytes = reserved_bytes + kHugePageBytes;
  void* const got =
      ::mmap(nullptr, asked_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (got == MAP_FAILED) {
    return fail_errno(
        fmt::format("reserve {} bytes of address space (see ulimit -v)", asked_bytes));
  }
  // Cut off what is before the first multiple of 2 MiB and behind the end.
  auto* const begin = static_cast<std::byte*>(got);
  const std::uint64_t before = -reinterpret_cast<std::uintptr_t>(begin) & (kHugePageBytes - 1);
  if (before > 0) ::munmap(begin, before);
  SpanMap out;
  out.base_ = begin + before;
  out.reserved_bytes_ = reserved_bytes;
  if (before < kHugePageBytes) {
    ::munmap(out.base_ + reserved_bytes, kHugePageBytes - before);
  }
  return out;
}

Result<void> SpanMap::map(int fd, const Interval& interval) {
  assert(interval.begin % system_page_bytes() == 0 && interval.end <= reserved_bytes_);
  if (::mmap(base_ + interval.begin, interval.bytes(), PROT_READ, MAP_SHARED | MAP_FIXED, fd,
             static_cast<off_t>(interval.begin)) == MAP_FAILED) {
    return fail_errno(fmt::format("map {} bytes at offset {}", interval.bytes(), interval.begin));
  }
  return {};
}

void SpanMap::unmap(const Interval& interval) {
  // Replaced, not removed: a hole could be given to someone else's mmap.
  [[maybe_unused]] const void* at =
      ::mmap(base_ + interval.begin, interval.bytes(), PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  assert(at != MAP_FAILED);
}

SpanMap::SpanMap(SpanMap&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)),
      reserved_bytes_(std::exchange(other.reserved_bytes_, 0)) {}

SpanMap& SpanMap::operator=(SpanMap&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(reserved_bytes_, other.reserved_bytes_);
  return *this;
}

SpanMap::~SpanMap() {
  if (base_ != nullptr) ::munmap(base_, reserved_bytes_);  // the intervals lie inside
}

void touch_pages(const std::byte* begin, std::uint64_t bytes) {
  const std::uint64_t page = system_page_bytes();
  for (std::uint64_t at = 0; at < bytes; at += page) {
    static_cast<void>(*static_cast<const volatile std::byte*>(begin + at));
  }
}

Result<void> populate(const std::byte* begin, std::uint64_t bytes) {
  void* const at = const_cast<std::byte*>(begin);
  while (::madvise(at, bytes, MADV_POPULATE_READ) != 0) {
    switch (errno) {
      case EINTR:
      case EAGAIN:
        continue;
      case EINVAL:
        touch_pages(begin, bytes);
        return {};  // an older kernel
      case EFAULT:
        return fail(ErrorCode::kIo, "the file became shorter, or its disk failed");
      case EHWPOISON:
        return fail(ErrorCode::kIo, "a page of memory is damaged");
      default:
        return fail_errno("madvise(MADV_POPULATE_READ)");
    }
  }
  return {};
}

}  // namespace ds4
