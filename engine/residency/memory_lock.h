#pragma once
// Locking a cover in memory, as far as the system lets us.
#include <cstddef>
#include <string>

#include "engine/residency/span_cover.h"

namespace ds4 {

/// mlock(2) of each interval at `base`. Locking is a safeguard, not a condition: what the limit
/// does not allow stays resident but evictable. Returns an empty string if everything was locked;
/// else one sentence: how much was not, why, and what to do.
std::string lock_cover(const std::byte* base, const SpanCover& cover);

}  // namespace ds4
