#pragma once
// The kernel's account of a reservation, as against ours: /proc/self/smaps for what is mapped and
// locked, mincore(2) for what is in memory, /proc/self/status for the peak.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/residency/residence.h"
#include "engine/residency/span_cover.h"

namespace ds4 {

/// One mapping as /proc/PID/smaps describes it.
struct SmapsEntry {
  std::uint64_t begin = 0;  // addresses
  std::uint64_t end = 0;
  std::uint64_t file_offset = 0;
  std::uint64_t inode = 0;  // 0: not of a file
  std::uint64_t rss_bytes = 0;
  bool locked = false;  // VmFlags has `lo`

  bool operator==(const SmapsEntry&) const = default;
};

/// Parses the text of /proc/PID/smaps. Unknown fields are skipped; kCorrupt for a text that is not
/// smaps at all.
Result<std::vector<SmapsEntry>> parse_smaps(std::string_view text);

/// What of the cover is mapped, present and locked inside the reservation at `base`, clipped to the
/// file's end as the cover is; and how much is mapped there that is not `claimed` (by this cover or
/// by another slice in the same reservation). Of incore_bytes it counts what the page tables
/// certainly hold, which is a lower bound.
Residency account(const std::vector<SmapsEntry>& smaps, std::uint64_t base,
                  std::uint64_t reserved_bytes, const SpanCover& cover,
                  std::span<const Interval> claimed);

/// True if mincore(2) tells the truth about the pages of this file: the kernel answers honestly
/// (since Linux 5.2) only to those who own the file or may write it, and calls everything present
/// to others.
bool mincore_is_honest(int fd);

/// Bytes of the interval in memory, by mincore(2).
Result<std::uint64_t> incore_bytes(const std::byte* base, const Interval& interval);

/// The whole audit: smaps, and mincore where it can be believed.
Result<Residency> audit_mapping(const std::byte* base, std::uint64_t reserved_bytes,
                                const SpanCover& cover, std::span<const Interval> claimed,
                                bool believe_mincore);

/// A field of /proc/PID/status given in kB, in bytes.
std::optional<std::uint64_t> parse_status_bytes(std::string_view text, std::string_view field);

/// Lets the kernel's peak of this process begin anew; ignored where it may not be (then the peak is
/// that of the process's whole life: too high, never too low).
void reset_peak_rss();
/// VmHWM: the peak of resident memory since. 0 if /proc cannot be read.
std::uint64_t peak_rss_bytes();

}  // namespace ds4
