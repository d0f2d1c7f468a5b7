#include "engine/residency/interval_set.h"

#include <algorithm>

namespace ds4 {

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
  std::ranges::sort(all, {}, &Interval::begin);
  Intervals out;
  for (const Interval& next : all) {
    if (!out.empty() && next.begin <= out.back().end) {
      out.back().end = std::max(out.back().end, next.end);
    } else {
      out.push_back(next);
    }
  }
  return out;
}

std::uint64_t total_bytes(std::span<const Interval> intervals) {
  std::uint64_t total = 0;
  for (const Interval& interval : intervals) total += interval.bytes();
  return total;
}

}  // namespace ds4
