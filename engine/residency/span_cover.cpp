#include "engine/residency/span_cover.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <utility>

#include "engine/base/checked.h"
#include "engine/residency/interval_set.h"

namespace ds4 {
namespace {

/// `end` rounded up to a page, or the end of the file where that comes first.
std::uint64_t round_up(std::uint64_t end, std::uint64_t page_bytes, std::uint64_t file_bytes) {
  const auto padded = checked_add(end, page_bytes - 1);
  return padded ? std::min(*padded & ~(page_bytes - 1), file_bytes) : file_bytes;
}

}  // namespace

Result<SpanCover> SpanCover::from_spans(std::span<const Span> spans, std::uint64_t file_bytes,
                                        std::uint64_t page_bytes) {
  assert(std::has_single_bit(page_bytes));
  SpanCover cover;
  cover.file_bytes_ = file_bytes;
  cover.page_bytes_ = page_bytes;
  for (const Span& span : spans) {
    if (!fits(span.offset, span.bytes, file_bytes)) {
      return fail(ErrorCode::kCorrupt, fmt::format("{} bytes at offset {} reach beyond the {} of "
                                                   "the file",
                                                   span.bytes, span.offset, file_bytes));
    }
    if (span.bytes == 0) continue;
    const auto total = checked_add(cover.tensor_bytes_, span.bytes);
    if (!total) return fail(ErrorCode::kCorrupt, "the sum of the spans overflows");
    cover.tensor_bytes_ = *total;
    ++cover.spans_;
    cover.intervals_.push_back({span.offset & ~(page_bytes - 1),
                                round_up(span.offset + span.bytes, page_bytes, file_bytes)});
  }
  cover.intervals_ = merged(std::move(cover.intervals_));
  cover.cover_bytes_ = total_bytes(cover.intervals_);
  return cover;
}

Result<SpanCover> SpanCover::of(const GgufFile& file, const LayerRange& range,
                                std::uint64_t page_bytes) {
  std::vector<Span> spans;
  for (const TensorInfo& tensor : file.tensors()) {
    if (range.owns(tensor.name)) spans.push_back({tensor.offset, tensor.bytes});
  }
  return from_spans(spans, file.file_bytes(), page_bytes);
}

bool SpanCover::contains(std::uint64_t offset, std::uint64_t bytes) const {
  const auto end = checked_add(offset, bytes);
  if (!end) return false;
  if (bytes == 0) return true;
  // The one candidate: the last interval that begins at or before the offset.
  const auto behind = std::ranges::upper_bound(intervals_, offset, {}, &Interval::begin);
  return behind != intervals_.begin() && *end <= std::prev(behind)->end;
}

Interval SpanCover::hull() const {
  if (intervals_.empty()) return {};
  return {intervals_.front().begin, intervals_.back().end};
}

std::string SpanCover::describe() const {
  const bool small = file_bytes_ < (1ull << 30);
  const double unit = small ? 1024.0 * 1024.0 : 1024.0 * 1024.0 * 1024.0;
  const std::string_view name = small ? "MiB" : "GiB";
  const auto in_units = [&](std::uint64_t bytes) { return static_cast<double>(bytes) / unit; };
  return fmt::format(
      "span cover {:.2f} {} of {:.2f} {} model ({} span{} in {} interval{}, offset "
      "{:.2f} {})",
      in_units(cover_bytes_), name, in_units(file_bytes_), name, spans_, spans_ == 1 ? "" : "s",
      intervals_.size(), intervals_.size() == 1 ? "" : "s", in_units(hull().begin), name);
}

}  // namespace ds4
