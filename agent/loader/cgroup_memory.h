#pragma once
// What the control groups around this process leave of memory, and the peak the kernel counted.
// Knows version 2 and, for older systems, the memory controller of version 1.
#include <cstdint>
#include <optional>
#include <string>

namespace ds4::agent {

struct CgroupMemory {
  /// The least that any group up the hierarchy leaves: its limit, less what cannot be reclaimed of
  /// its use. Empty where nothing limits.
  std::optional<std::uint64_t> left_bytes;
  /// The group's own peak (memory.peak); all its processes and its page cache together.
  std::optional<std::uint64_t> peak_bytes;
};

/// `proc_cgroup` is the text of /proc/self/cgroup, `mount` the place of /sys/fs/cgroup; parameters
/// so that tests can lay out their own.
CgroupMemory read_cgroup_memory(const std::string& proc_cgroup, const std::string& mount);
CgroupMemory read_cgroup_memory();

}  // namespace ds4::agent
