#pragma once
// What the kernel says of this process, for tests that count.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/base/unique_fd.h"
#include "engine/residency/span_map.h"

namespace ds4::test {

inline std::size_t open_descriptors() {
  const std::filesystem::directory_iterator begin("/proc/self/fd"), end;
  return static_cast<std::size_t>(std::distance(begin, end));
}

/// Lines of /proc/self/maps that contain `word`.
inline std::size_t mappings_with(const std::string& word) {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find(word) != std::string::npos;
  return count;
}

/// Open descriptors whose link contains `word`.
inline std::size_t descriptors_of(const std::string& word) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(entry.path(), gone);
    count += !gone && target.string().find(word) != std::string::npos;
  }
  return count;
}

/// The physical page frames under these addresses; empty where only root may know.
inline std::vector<std::uint64_t> page_frames(const std::byte* begin, std::uint64_t bytes) {
  const UniqueFd fd(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  const std::uint64_t page = system_page_bytes();
  std::vector<std::uint64_t> frames(bytes / page);
  const auto at = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(begin) / page * 8);
  const auto want = static_cast<ssize_t>(frames.size() * 8);
  if (!fd || ::pread(fd.get(), frames.data(), frames.size() * 8, at) != want) return {};
  constexpr std::uint64_t kFrame = (1ull << 55) - 1;
  for (std::uint64_t& frame : frames) frame &= kFrame;
  return !frames.empty() && frames[0] != 0 ? frames : std::vector<std::uint64_t>();
}

inline long page_faults() {
  rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

/// Bytes of the file that are in the page cache, seen through a mapping of the test's own.
inline std::uint64_t cached_bytes(const std::string& path, std::uint64_t offset,
                                  std::uint64_t bytes) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  void* const at =
      ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd.get(), static_cast<off_t>(offset));
  if (at == MAP_FAILED) return UINT64_MAX;
  const std::uint64_t page = system_page_bytes();
  std::vector<unsigned char> present((bytes + page - 1) / page);
  ::mincore(at, bytes, present.data());
  ::munmap(at, bytes);
  std::uint64_t total = 0;
  for (const unsigned char one : present) total += (one & 1u) != 0 ? page : 0;
  return total;
}

}  // namespace ds4::test
