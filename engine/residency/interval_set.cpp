#include "engine/residency/interval_set.h"

#include <algorithm>
#include <utility>

namespace ds4 {

Intervals merged(Intervals intervals) {
  std::ranges::sort(intervals, {}, &Interval::begin);
  std::size_t kept = 0;
  for (const Interval& next : intervals) {
    if (kept > 0 && next.begin <= intervals[kept - 1].end) {
      intervals[kept - 1].end = std::max(intervals[kept - 1].end, next.end);
    } else {
      intervals[kept++] = next;
    }
  }
  intervals.resize(kept);
  return intervals;
}

Intervals difference(std::span<const Interval> a, std::span<const Interval> b) {
  Intervals out;
  std::size_t next = 0;
  for (const Interval& whole : a) {
    std::uint64_t at = whole.begin;
    while (next < b.size() && b[next].end <= at) ++next;
    for (std::size_t i = next; i < b.size() && b[i].begin < whole.end; ++i) {
      if (b[i].begin > at) out.push_back({at, b[i].begin});
      at = std::max(at, b[i].end);
    }
    if (at < whole.end) out.push_back({at, whole.end});
  }
  return out;
}

Intervals intersection(std::span<const Interval> a, std::span<const Interval> b) {
  return difference(a, difference(a, b));
}

Intervals united(std::span<const Interval> a, std::span<const Interval> b) {
  Intervals all(a.begin(), a.end());
  all.insert(all.end(), b.begin(), b.end());
  return merged(std::move(all));
}

std::uint64_t total_bytes(std::span<const Interval> intervals) {
  std::uint64_t total = 0;
  for (const Interval& interval : intervals) total += interval.bytes();
  return total;
}

}  // namespace ds4
