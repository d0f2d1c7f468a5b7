#include "engine/cuda/device_plan.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <iterator>
#include <optional>

#include "engine/base/checked.h"

namespace ds4::cuda {
namespace {

std::optional<std::uint64_t> round_up(std::uint64_t bytes, std::uint64_t unit) {
  const auto padded = checked_add(bytes, unit - 1);
  return padded ? std::optional(*padded & ~(unit - 1)) : std::nullopt;
}

}  // namespace

Result<DevicePlan> DevicePlan::make(const SpanCover& cover, std::uint64_t granularity) {
  assert(std::has_single_bit(granularity) && granularity % kMarkBytes == 0);
  if (cover.intervals().empty()) return fail(ErrorCode::kOutOfRange, "there is nothing to place");
  DevicePlan plan;
  for (const Interval& interval : cover.intervals()) {
    plan.extents_.push_back({interval.begin, interval.bytes(), plan.payload_bytes_});
    plan.payload_bytes_ += interval.bytes();  // disjoint parts of one file: no overflow
  }
  const auto mark = round_up(plan.payload_bytes_, kMarkBytes);
  const auto end = mark ? checked_add(*mark, kMarkBytes) : std::nullopt;
  const auto total = end ? round_up(*end, granularity) : std::nullopt;
  if (!total) return fail(ErrorCode::kOutOfRange, "the cover is larger than any memory");
  plan.mark_offset_ = *mark;
  plan.total_bytes_ = *total;
  return plan;
}

std::uint64_t DevicePlan::device_offset(std::uint64_t file_offset) const {
  const auto behind = std::ranges::upper_bound(extents_, file_offset, {}, &Extent::file_offset);
  assert(behind != extents_.begin());
  const Extent& extent = *std::prev(behind);
  assert(file_offset - extent.file_offset < extent.bytes);
  return extent.device_place + (file_offset - extent.file_offset);
}

std::vector<Extent> cut(std::span<const Extent> extents, std::uint64_t chunk_bytes) {
  assert(chunk_bytes > 0);
  std::vector<Extent> pieces;
  for (const Extent& extent : extents) {
    for (std::uint64_t done = 0; done < extent.bytes;) {
      const std::uint64_t bytes = std::min(chunk_bytes, extent.bytes - done);
      pieces.push_back({extent.file_offset + done, bytes, extent.device_place + done});
      done += bytes;
    }
  }
  return pieces;
}

}  // namespace ds4::cuda
