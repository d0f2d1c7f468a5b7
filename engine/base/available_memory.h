#pragma once
#include <cstdint>

namespace ds4 {

/// MemAvailable of /proc/meminfo, which counts the page cache that can be dropped; 0 if unknown.
std::uint64_t available_memory_bytes();

}  // namespace ds4
