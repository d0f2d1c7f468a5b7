#pragma once
// The address space of a slice: as long as the whole file, but only the cover exists in it.
//
// The file's length is reserved without access rights, and each interval of the cover is mapped at
// its own offset inside. Pointers are therefore simply base + file offset, and a pointer to
// anything else of the file is not forbidden by a check but absent: touching it faults.
//
// Shared and read-only on purpose: the pages are the page cache's own (no copy, shared between
// processes), and this is the one form that a GPU driver registers without copying.
#include <cstddef>
#include <cstdint>

#include "engine/base/result.h"
#include "engine/residency/span_cover.h"

namespace ds4 {

/// Bytes of a page on this machine: 4, 16 or 64 KiB.
std::uint64_t system_page_bytes();

/// Owner of the reservation and of every mapping in it. Move-only.
class SpanMap {
 public:
  /// Maps the cover's intervals of `fd`. The cover's page size must be a multiple of the system's.
  /// Nothing is read yet.
  static Result<SpanMap> map(int fd, const SpanCover& cover);

  SpanMap() = default;
  SpanMap(SpanMap&& other) noexcept;
  SpanMap& operator=(SpanMap&& other) noexcept;
  ~SpanMap();

  /// The address of file offset 0.
  const std::byte* base() const { return base_; }
  /// The file's size, rounded up to a page.
  std::uint64_t reserved_bytes() const { return reserved_bytes_; }

 private:
  std::byte* base_ = nullptr;
  std::uint64_t reserved_bytes_ = 0;
};

/// Makes the pages of [begin, begin + bytes) present. `begin` is page-aligned. Errors instead of a
/// signal where the kernel offers MADV_POPULATE_READ (5.14); before that, touches each page.
Result<void> populate(const std::byte* begin, std::uint64_t bytes);

/// The fallback of populate(): reads one byte of each page.
void touch_pages(const std::byte* begin, std::uint64_t bytes);

}  // namespace ds4
