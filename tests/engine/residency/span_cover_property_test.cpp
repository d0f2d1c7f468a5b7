// SpanCover against an oracle that marks pages in a bitmap, on random spans.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "engine/residency/span_cover.h"

namespace ds4 {
namespace {

constexpr std::uint64_t kPages = 200;  // of the window in which spans lie

/// A window of pages somewhere in a file, with or without a partial page at the file's end.
struct Geometry {
  std::uint64_t page_bytes = 0;
  std::uint64_t window = 0;      // offset of the first page
  std::uint64_t file_bytes = 0;  // at most window + kPages * page_bytes
};

/// The oracle: one bit a page. Independent of sorting and merging.
class Bitmap {
 public:
  Bitmap(const Geometry& geometry, const std::vector<Span>& spans) : geometry_(geometry) {
    for (const Span& span : spans) {
      for (std::uint64_t page = 0; page < kPages; ++page) {
        const std::uint64_t begin = geometry.window + page * geometry.page_bytes;
        const std::uint64_t last = begin + (geometry.page_bytes - 1);
        if (span.offset <= last && span.offset + (span.bytes - 1) >= begin) covered_[page] = true;
      }
    }
  }
  bool covers(std::uint64_t offset) const {
    if (offset < geometry_.window || offset >= geometry_.file_bytes) return false;
    return covered_[(offset - geometry_.window) / geometry_.page_bytes];
  }
  std::uint64_t bytes() const {
    std::uint64_t total = 0;
    for (std::uint64_t page = 0; page < kPages; ++page) {
      const std::uint64_t begin = geometry_.window + page * geometry_.page_bytes;
      if (covered_[page]) total += std::min(geometry_.page_bytes, geometry_.file_bytes - begin);
    }
    return total;
  }
  /// Runs of covered pages.
  std::size_t runs() const {
    std::size_t count = 0;
    for (std::uint64_t page = 0; page < kPages; ++page) {
      if (covered_[page] && (page == 0 || !covered_[page - 1])) ++count;
    }
    return count;
  }

 private:
  Geometry geometry_;
  bool covered_[kPages] = {};
};

class SpanCoverProperty : public ::testing::TestWithParam<std::uint64_t> {
 protected:
  std::uint64_t below(std::uint64_t bound) {
    return std::uniform_int_distribution<std::uint64_t>(0, bound - 1)(random_);
  }

  /// Windows at the start of a file, in the middle of a large one, and against 2^64.
  Geometry random_geometry() {
    const std::uint64_t page = GetParam();
    const std::uint64_t length = kPages * page;
    const std::uint64_t cut = below(2) == 0 ? 0 : below(page);  // of the last page
    switch (below(3)) {
      case 0:
        return {page, 0, length - cut};
      case 1: {
        const std::uint64_t window = (150ull << 30) + below(1u << 20) * page;
        return {page, window, window + length - cut};
      }
      default: {
        // The highest window whose end is still a number; with cut 0 it loses one byte.
        const std::uint64_t window = 0 - length;
        return {page, window, UINT64_MAX - cut};
      }
    }
  }

  std::vector<Span> random_spans(const Geometry& geometry) {
    std::vector<Span> spans(1 + below(12));
    const std::uint64_t room = geometry.file_bytes - geometry.window;
    for (Span& span : spans) {
      const std::uint64_t start = below(room);
      const std::uint64_t longest = std::min(room - start, geometry.page_bytes * (1 + below(30)));
      // Page-aligned ends are where rounding goes wrong: have many.
      span = {geometry.window + start, 1 + below(longest)};
      if (below(3) == 0) span.offset -= span.offset % geometry.page_bytes;
    }
    return spans;
  }

  std::mt19937_64 random_{20260 + GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Pages, SpanCoverProperty, ::testing::Values(4096, 16384, 65536));

TEST_P(SpanCoverProperty, EqualsTheBitmap) {
  for (int round = 0; round < 3000; ++round) {
    const Geometry geometry = random_geometry();
    const std::vector<Span> spans = random_spans(geometry);
    const Bitmap oracle(geometry, spans);
    const auto cover = SpanCover::from_spans(spans, geometry.file_bytes, geometry.page_bytes);
    ASSERT_TRUE(cover) << cover.error().message;
    ASSERT_EQ(cover->cover_bytes(), oracle.bytes());
    ASSERT_EQ(cover->intervals().size(), oracle.runs());
    for (const Interval& interval : cover->intervals()) {
      ASSERT_LT(interval.begin, interval.end);
      ASSERT_EQ(interval.begin % geometry.page_bytes, 0u);
      ASSERT_TRUE(interval.end % geometry.page_bytes == 0 || interval.end == geometry.file_bytes);
    }
    for (int probe = 0; probe < 50; ++probe) {
      // One byte anywhere, most often beside a page boundary.
      const std::uint64_t boundary = geometry.window + below(kPages) * geometry.page_bytes;
      const std::uint64_t offset = boundary - (below(2) == 0 ? 0 : 1);
      ASSERT_EQ(cover->contains(offset, 1), oracle.covers(offset)) << offset;
    }
    for (const Span& span : spans) ASSERT_TRUE(cover->contains(span.offset, span.bytes));
  }
}

TEST_P(SpanCoverProperty, ContainsExactlyTheRangesWhoseBytesAreAllCovered) {
  for (int round = 0; round < 300; ++round) {
    const std::uint64_t page = GetParam();
    const Geometry geometry{page, 0, kPages * page};
    const std::vector<Span> spans = random_spans(geometry);
    const Bitmap oracle(geometry, spans);
    const auto cover = SpanCover::from_spans(spans, geometry.file_bytes, page);
    ASSERT_TRUE(cover);
    for (int probe = 0; probe < 50; ++probe) {
      const std::uint64_t first = below(kPages), count = 1 + below(kPages - first);
      bool all = true;
      for (std::uint64_t i = 0; i < count; ++i) all = all && oracle.covers((first + i) * page);
      ASSERT_EQ(cover->contains(first * page, count * page), all);
    }
  }
}

TEST_P(SpanCoverProperty, DoesNotDependOnTheOrderOfTheSpans) {
  for (int round = 0; round < 300; ++round) {
    const Geometry geometry{GetParam(), 0, kPages * GetParam()};
    std::vector<Span> spans = random_spans(geometry);
    const auto one = SpanCover::from_spans(spans, geometry.file_bytes, geometry.page_bytes);
    std::shuffle(spans.begin(), spans.end(), random_);
    const auto two = SpanCover::from_spans(spans, geometry.file_bytes, geometry.page_bytes);
    ASSERT_TRUE(one && two);
    ASSERT_TRUE(std::ranges::equal(one->intervals(), two->intervals()));
    ASSERT_EQ(one->tensor_bytes(), two->tensor_bytes());
  }
}

}  // namespace
}  // namespace ds4
