#pragma once
// Locking a cover in memory, as far as the system lets us.
#include <cstddef>
#include <cstdint>

#include "engine/residency/load_options.h"

namespace ds4 {

/// Locks as it goes: what was read in a moment ago must not be evicted while the rest is read.
/// Locking is a safeguard, not a condition: what the limit does not allow stays resident but
/// evictable.
class MemoryLocker {
 public:
  explicit MemoryLocker(LoadRun& run) : run_(run) {}

  /// mlock(2), if the run asks for locking. kPermission where the run must lock and cannot.
  Result<void> lock(const std::byte* begin, std::uint64_t bytes);
  /// Sets run.lock_note if not everything was locked: how much, why, and what to do.
  void conclude();

 private:
  LoadRun& run_;
  std::uint64_t asked_bytes_ = 0;
  std::uint64_t refused_bytes_ = 0;
  int error_ = 0;
};

}  // namespace ds4
