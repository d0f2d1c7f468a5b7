#pragma once
// Tells a process that it is a fork of the one that made a connection: the two would write the same
// ring.
#include <cstdint>

namespace ds4::ipc {

/// A number that is the same for all calls within one process and differs in its forks. Costs one
/// load: it lives in a page that the kernel wipes on fork.
std::uint64_t process_generation();

}  // namespace ds4::ipc
