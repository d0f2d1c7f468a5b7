#pragma once
// Locking a cover in memory, as far as the system lets us.
#include <cstddef>
#include <span>

#include "engine/residency/load_options.h"
#include "engine/residency/span_cover.h"

namespace ds4 {

/// mlock(2) of each interval at `base`, if the run asks for locking. Locking is a safeguard, not a
/// condition: what the limit does not allow stays resident but evictable, and run.lock_note says
/// how much was not locked, why, and what to do. kPermission where the run must lock.
Result<void> lock_intervals(const std::byte* base, std::span<const Interval> intervals,
                            LoadRun& run);

}  // namespace ds4
