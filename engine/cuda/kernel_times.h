#pragma once
// Times of kernels, summed up by name: of the launches of a call, and of calls.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ds4 {

/// Of all launches of one name.
struct KernelTime {
  std::string name;
  std::uint32_t launches = 0;
  double ms = 0;
};

class KernelTimes {
 public:
  void add(std::string_view name, std::uint32_t launches, double ms);
  void add(std::span<const KernelTime> times) {
    for (const KernelTime& time : times) add(time.name, time.launches, time.ms);
  }
  void clear() { times_.clear(); }

  /// In the order in which names came up first.
  std::span<const KernelTime> all() const { return times_; }
  double total_ms() const;
  /// A line for each name, the longest first, with its share of the whole.
  std::string to_text() const;

 private:
  std::vector<KernelTime> times_;
};

}  // namespace ds4
