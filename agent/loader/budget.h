#pragma once
// Whether memory holds what is asked for: decided with numbers before a byte is touched.
#include <cstdint>

#include "agent/config/config.h"
#include "engine/base/result.h"
#include "engine/residency/span_cover.h"

namespace ds4::agent {

/// What loading takes on top of the weights themselves; also what is left to the rest of the
/// machine.
inline constexpr std::uint64_t kLoadReserveBytes = 256U << 20;

/// Bytes of `wanted` that are not in `held`: mappings of one file share their pages.
std::uint64_t bytes_beyond(const SpanCover& wanted, const SpanCover& held);

/// `held` is what already serves (empty if nothing). Errors: kResourceExhausted with the numbers.
Result<void> check_budget(const SpanCover& wanted, const SpanCover& held,
                          std::uint64_t available_bytes);

/// How much KV cache all sessions together may take: what the configuration says, or a quarter of
/// what is available now that the weights are in memory. 0: no limit is known.
std::uint64_t choose_kv_budget(const Config::Memory& memory, std::uint64_t available_bytes);

/// MemAvailable of /proc/meminfo, which counts the page cache that can be dropped; 0 if unknown.
std::uint64_t available_memory_bytes();

}  // namespace ds4::agent
