#pragma once
// The address space of a model file: as long as the whole file, but only what was mapped exists.
//
// The file's length is reserved without access rights, and intervals are mapped at their own
// offsets inside. Pointers are therefore simply base + file offset, and a pointer to anything else
// of the file is not forbidden by a check but absent: touching it faults.
//
// Shared and read-only on purpose: the pages are those of the file or memfd (no copy, shared
// between processes), and this is the one form that a GPU driver registers without copying.
#include <cstddef>
#include <cstdint>

#include "engine/base/result.h"
#include "engine/residency/span_cover.h"

namespace ds4 {

/// Bytes of a page on this machine: 4, 16 or 64 KiB.
std::uint64_t system_page_bytes();

/// What large pages need of an address and of an offset.
inline constexpr std::uint64_t kHugePageBytes = 2u << 20;

/// Owner of the reservation and of every mapping in it. Move-only.
class SpanMap {
 public:
  /// Address space for a file of `file_bytes`, aligned so that offsets that are multiples of 2 MiB
  /// lie at addresses that are.
  static Result<SpanMap> reserve(std::uint64_t file_bytes);

  SpanMap() = default;
  SpanMap(SpanMap&& other) noexcept;
  SpanMap& operator=(SpanMap&& other) noexcept;
  ~SpanMap();

  /// Maps these bytes of `fd` at their own offset, in place of what was there. Page-aligned, but
  /// for the file's end. Nothing is read yet.
  Result<void> map(int fd, const Interval& interval);
  /// Reserved again, without access rights; its pages are let go.
  void unmap(const Interval& interval);

  /// The address of file offset 0.
  std::byte* base() const { return base_; }
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
