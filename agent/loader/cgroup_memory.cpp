#include "agent/loader/cgroup_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

namespace ds4::agent {
namespace {

namespace fs = std::filesystem;

/// The names of one version's files.
struct Names {
  const char* limit;
  const char* use;
  const char* peak;
  const char* inactive_file;  // fields of memory.stat
  const char* active_file;
};
constexpr Names kVersion2 = {"memory.max", "memory.current", "memory.peak", "inactive_file",
                             "active_file"};
constexpr Names kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                             "memory.max_usage_in_bytes", "total_inactive_file",
                             "total_active_file"};
// Version 1 writes "no limit" as the largest multiple of a page.
constexpr std::uint64_t kNoLimit = 1ull << 62;

std::optional<std::uint64_t> number_in(const fs::path& path) {
  std::ifstream file(path);
  std::string word;
  std::uint64_t value = 0;
  if (!(file >> word)) return std::nullopt;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;  // "max"
  return value;
}

/// The page cache of the group, which the kernel gives back before it refuses memory. What is
/// locked is not in these lists.
std::uint64_t reclaimable_bytes(const fs::path& group, const Names& names) {
  std::ifstream file(group / "memory.stat");
  std::string field;
  std::uint64_t value = 0, total = 0;
  while (file >> field >> value) {
    if (field == names.inactive_file || field == names.active_file) total += value;
  }
  return total;
}

std::optional<std::uint64_t> left_in(const fs::path& group, const Names& names) {
  const auto limit = number_in(group / names.limit);
  const auto use = number_in(group / names.use);
  if (!limit || !use || *limit >= kNoLimit) return std::nullopt;
  const std::uint64_t held = *use - std::min(*use, reclaimable_bytes(group, names));
  return *limit - std::min(*limit, held);
}

struct Place {
  fs::path mount;
  fs::path group;
  Names names;
};

/// Where this process's memory is accounted: "4:memory:/a/b" (version 1) or "0::/a/b".
std::optional<Place> find_place(const std::string& proc_cgroup, const fs::path& mount) {
  std::optional<Place> place;
  std::istringstream lines(proc_cgroup);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers =
        fmt::format(",{},", std::string_view(line).substr(first + 1, second - first - 1));
    const std::string path = line.substr(std::min(second + 2, line.size()));
    if (controllers.find(",memory,") != std::string::npos) {
      return Place{mount / "memory", mount / "memory" / path, kVersion1};
    }
    if (controllers == ",,") place = Place{mount, mount / path, kVersion2};
  }
  return place;
}

}  // namespace

CgroupMemory read_cgroup_memory(const std::string& proc_cgroup, const std::string& mount) {
  CgroupMemory out;
  std::error_code ignored;
  auto place = find_place(proc_cgroup, mount);
  if (!place) return out;
  // Inside a container the path may be that of the host, while the mount shows the own group.
  if (!fs::exists(place->group, ignored)) place->group = place->mount;
  out.peak_bytes = number_in(place->group / place->names.peak);
  fs::path group = place->group.lexically_normal();
  while (true) {
    if (const auto left = left_in(group, place->names)) {
      out.left_bytes = std::min(out.left_bytes.value_or(UINT64_MAX), *left);
    }
    if (group == place->mount || !group.has_relative_path()) return out;
    group = group.parent_path();
  }
}

CgroupMemory read_cgroup_memory() {
  std::ifstream file("/proc/self/cgroup");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  return read_cgroup_memory(text, "/sys/fs/cgroup");
}

}  // namespace ds4::agent
