#include "agent/loader/budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace ds4::agent {
namespace {

double gib(std::uint64_t bytes) {
  return static_cast<double>(bytes) / (1ULL << 30);
}

}  // namespace

std::uint64_t bytes_beyond(const SpanCover& wanted, const SpanCover& held) {
  std::uint64_t shared = 0;
  for (const Interval& a : wanted.intervals()) {
    for (const Interval& b : held.intervals()) {
      const std::uint64_t begin = std::max(a.begin, b.begin);
      const std::uint64_t end = std::min(a.end, b.end);
      if (begin < end) shared += end - begin;
    }
  }
  return wanted.cover_bytes() - shared;
}

Result<void> check_budget(const SpanCover& wanted, const SpanCover& held,
                          std::uint64_t available_bytes) {
  if (available_bytes == 0) return {};  // unknown: the load itself will tell
  const std::uint64_t needed = bytes_beyond(wanted, held);
  if (needed + kLoadReserveBytes <= available_bytes) return {};
  return fail(ErrorCode::kResourceExhausted,
              fmt::format("these layers take {:.2f} GiB more and loading keeps {:.2f} GiB in "
                          "reserve, but only {:.2f} GiB of memory is available: give this node "
                          "fewer layers, or release it first",
                          gib(needed), gib(kLoadReserveBytes), gib(available_bytes)));
}

std::uint64_t choose_kv_budget(const Config::Memory& memory, std::uint64_t available_bytes) {
  if (memory.kv_mib > 0) return std::uint64_t{memory.kv_mib} << 20;
  return available_bytes / 4;
}

std::uint64_t available_memory_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::uint64_t kib = 0;
  std::string rest;
  while (meminfo >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    std::getline(meminfo, rest);
  }
  return 0;
}

}  // namespace ds4::agent
