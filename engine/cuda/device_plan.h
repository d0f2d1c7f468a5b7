#pragma once
// Where the bytes of one part (a layer, or the output head) stand in device memory.
//
// On the host the cover lies in a reservation as long as the file, because addresses are free
// there. Device memory is dealt out in pages of 2 MiB, and rounding every interval up to that would
// waste up to 2 MiB for each of hundreds. So a part's intervals stand back to back, each keeping
// its place within a page of the file, and the sum is rounded up once:
//
//     file     ....[ interval 0 ].........[ interval 1 ]....[ interval 2 ]..
//     device   [ interval 0 ][ interval 1 ][ interval 2 ][ mark ][ padding  ]
//
// Behind the payload stands the completeness mark (completeness_mark.h), written when everything
// before it is there. What a part takes beyond its cover is therefore less than 8 KiB + 2 MiB.
// All of this is arithmetic, and needs no device.
#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/result.h"
#include "engine/residency/span_cover.h"

namespace ds4::cuda {

/// Bytes that the completeness mark takes, and its alignment.
inline constexpr std::uint64_t kMarkBytes = 4096;

/// Bytes of the file, and where they stand: an offset in device memory, or an address there.
struct Extent {
  std::uint64_t file_offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t device_place = 0;
  bool operator==(const Extent&) const = default;
};

class DevicePlan {
 public:
  /// `granularity`: what the device rounds allocations to, a power of two and a multiple of
  /// kMarkBytes. Errors: kOutOfRange for a cover without bytes or whose sizes overflow.
  static Result<DevicePlan> make(const SpanCover& cover, std::uint64_t granularity);

  /// In the order of the file, and of the device; places are offsets.
  std::span<const Extent> extents() const { return extents_; }
  std::uint64_t payload_bytes() const { return payload_bytes_; }
  std::uint64_t mark_offset() const { return mark_offset_; }
  /// A multiple of the granularity.
  std::uint64_t total_bytes() const { return total_bytes_; }

  /// The place of a byte of the file. It must be in the cover.
  std::uint64_t device_offset(std::uint64_t file_offset) const;

 private:
  std::vector<Extent> extents_;
  std::uint64_t payload_bytes_ = 0;
  std::uint64_t mark_offset_ = 0;
  std::uint64_t total_bytes_ = 0;
};

/// The extents cut into pieces of at most `chunk_bytes` (a multiple of the page size): what one
/// read fetches and one copy sends.
std::vector<Extent> cut(std::span<const Extent> extents, std::uint64_t chunk_bytes);

}  // namespace ds4::cuda
