#pragma once
// Arithmetic of covers: what is new, what stays, what goes. All inputs (but for merged()) and
// results are sorted and disjoint; results do not touch.
#include <cstdint>
#include <span>
#include <vector>

#include "engine/residency/span_cover.h"

namespace ds4 {

using Intervals = std::vector<Interval>;

/// Of any intervals in any order.
Intervals merged(Intervals intervals);
/// The bytes of `a` that are not in `b`.
Intervals difference(std::span<const Interval> a, std::span<const Interval> b);
/// The bytes in both.
Intervals intersection(std::span<const Interval> a, std::span<const Interval> b);
/// The bytes in either.
Intervals united(std::span<const Interval> a, std::span<const Interval> b);

std::uint64_t total_bytes(std::span<const Interval> intervals);

}  // namespace ds4
