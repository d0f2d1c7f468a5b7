#pragma once
// What the machine itself can read: the yardstick for decoding, which is bound by memory.
#include <cstdint>

#include "engine/base/result.h"

namespace ds4 {

/// 512 MiB, far beyond the caches, or a quarter of the available memory where that is less.
std::uint64_t bandwidth_buffer_bytes();

/// Bytes per second that `threads` threads (0 means one) read together from `buffer_bytes` of
/// memory in ordinary pages: the best of `rounds` passes, since other programs only ever slow one
/// down. Errors: kResourceExhausted when the buffer cannot be had.
Result<double> read_bandwidth(unsigned threads, std::uint64_t buffer_bytes, unsigned rounds);

}  // namespace ds4
