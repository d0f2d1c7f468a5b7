#pragma once
// SpanCover: exactly which bytes of the model file a slice owns.
//
// The tensors of a slice are not one range of the file: the embedding and the output head stand
// first in some files and last in others, and a layer's tensors may be anywhere. Taking the range
// from the first tensor to the last would make a worker of 78 GiB hold a file of 150 GiB. So the
// cover is a union: each tensor's bytes, rounded out to pages, sorted and merged where they touch
// or overlap.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/gguf/gguf.h"
#include "engine/residency/layer_range.h"

namespace ds4 {

/// [begin, end) in bytes of the file; both multiples of the page size, but for the file's own end,
/// which counts as a page boundary.
struct Interval {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t bytes() const { return end - begin; }
  bool operator==(const Interval&) const = default;
};

/// Tensor bytes before rounding.
struct Span {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

class SpanCover {
 public:
  SpanCover() = default;
  /// `page_bytes` a power of two. Errors: kCorrupt for a span beyond `file_bytes` or whose end
  /// overflows.
  static Result<SpanCover> from_spans(std::span<const Span> spans, std::uint64_t file_bytes,
                                      std::uint64_t page_bytes);
  /// The tensors of `file` that `range` owns.
  static Result<SpanCover> of(const GgufFile& file, const LayerRange& range,
                              std::uint64_t page_bytes);

  /// Sorted, disjoint, not touching.
  std::span<const Interval> intervals() const { return intervals_; }
  /// True if every byte of [offset, offset + bytes) is covered; false on overflow.
  bool contains(std::uint64_t offset, std::uint64_t bytes) const;
  std::uint64_t cover_bytes() const { return cover_bytes_; }
  std::uint64_t tensor_bytes() const { return tensor_bytes_; }
  std::uint64_t spans() const { return spans_; }
  std::uint64_t file_bytes() const { return file_bytes_; }
  std::uint64_t page_bytes() const { return page_bytes_; }
  /// From the first interval's begin to the last one's end: what a naive range would take.
  Interval hull() const;
  /// "span cover 78.21 GiB of 150.00 GiB model (48 spans in 3 intervals, offset 72.00 GiB)".
  std::string describe() const;

 private:
  std::vector<Interval> intervals_;
  std::uint64_t cover_bytes_ = 0;
  std::uint64_t tensor_bytes_ = 0;
  std::uint64_t spans_ = 0;
  std::uint64_t file_bytes_ = 0;
  std::uint64_t page_bytes_ = 0;
};

}  // namespace ds4
