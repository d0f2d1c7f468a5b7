#include "tests/agent/memory_group.h"

#include <unistd.h>

#include <fstream>
#include <sstream>

namespace ds4::test {
namespace {

namespace fs = std::filesystem;

/// The path of this process behind "controllers:" in /proc/self/cgroup.
std::string own_path(const std::string& controllers) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (line.substr(first + 1, second - first - 1) == controllers) return line.substr(second + 1);
  }
  return "/";
}

}  // namespace

MemoryGroup::MemoryGroup(fs::path parent, const Names& names)
    : parent_(std::move(parent)),
      group_(parent_ / ("ds4-test-" + std::to_string(::getpid()))),
      names_(names) {}

std::unique_ptr<MemoryGroup> MemoryGroup::make(std::uint64_t limit_bytes, std::string& why) {
  const fs::path root = "/sys/fs/cgroup";
  const bool two = fs::exists(root / "cgroup.controllers");
  const fs::path parent = two ? root / fs::path(own_path("")).relative_path()
                              : root / "memory" / fs::path(own_path("memory")).relative_path();
  const Names names =
      two ? Names{"memory.max", "memory.current", "memory.peak"}
          : Names{"memory.limit_in_bytes", "memory.usage_in_bytes", "memory.max_usage_in_bytes"};
  std::unique_ptr<MemoryGroup> group(new MemoryGroup(parent, names));
  std::error_code error;
  fs::create_directory(group->group_, error);
  if (error) {
    why = "no control group can be made in " + parent.string() + ": " + error.message();
    return nullptr;
  }
  if (!group->write(group->group_ / names.limit, std::to_string(limit_bytes))) {
    why = "the control group " + group->group_.string() + " takes no memory limit";
    return nullptr;
  }
  return group;
}

MemoryGroup::~MemoryGroup() {
  for (int i = 0; i < 100 && ::rmdir(group_.c_str()) != 0 && errno == EBUSY; ++i) ::usleep(10'000);
}

bool MemoryGroup::write(const fs::path& path, const std::string& text) const {
  std::ofstream file(path);
  file << text << std::flush;
  return file.good();
}

void MemoryGroup::enter() const {
  write(group_ / "cgroup.procs", std::to_string(::getpid()));
}

void MemoryGroup::leave() const {
  write(parent_ / "cgroup.procs", std::to_string(::getpid()));
}

std::uint64_t MemoryGroup::number(const char* name) const {
  std::ifstream file(group_ / name);
  std::uint64_t value = 0;
  file >> value;
  return value;
}

std::uint64_t MemoryGroup::peak_bytes() const {
  return number(names_.peak);
}

std::uint64_t MemoryGroup::use_bytes() const {
  return number(names_.use);
}

}  // namespace ds4::test
