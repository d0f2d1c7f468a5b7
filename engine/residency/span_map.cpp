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

Result<SpanMap> SpanMap::map(int fd, const SpanCover& cover) {
  const std::uint64_t page = system_page_bytes();
  assert(cover.page_bytes() % page == 0);
  const auto padded = checked_add(cover.file_bytes(), page - 1);
  if (!padded || *padded < page) return fail(ErrorCode::kInvalidArgument, "no bytes to map");
  SpanMap out;
  const std::uint64_t reserved_bytes = *padded & ~(page - 1);
  void* const base = ::mmap(nullptr, reserved_bytes, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return fail_errno(
        fmt::format("reserve {} bytes of address space (see ulimit -v)", reserved_bytes));
  }
  out.base_ = static_cast<std::byte*>(base);
  out.reserved_bytes_ = reserved_bytes;
  for (const Interval& interval : cover.intervals()) {
    void* const at = out.base_ + interval.begin;
    if (::mmap(at, interval.bytes(), PROT_READ, MAP_SHARED | MAP_FIXED, fd,
               static_cast<off_t>(interval.begin)) == MAP_FAILED) {
      return fail_errno(fmt::format("map {} bytes at offset {}", interval.bytes(), interval.begin));
    }
  }
  return out;
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
