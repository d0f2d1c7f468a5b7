#include "engine/cuda/kernel_times.h"

#include <fmt/format.h>

#include <algorithm>

namespace ds4 {

void KernelTimes::add(std::string_view name, std::uint32_t launches, double ms) {
  auto found = std::find_if(times_.begin(), times_.end(),
                            [&](const KernelTime& time) { return time.name == name; });
  if (found == times_.end()) found = times_.insert(times_.end(), {std::string(name)});
  found->launches += launches;
  found->ms += ms;
}

double KernelTimes::total_ms() const {
  double total = 0;
  for (const KernelTime& time : times_) total += time.ms;
  return total;
}

std::string KernelTimes::to_text() const {
  std::vector<KernelTime> sorted = times_;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const KernelTime& a, const KernelTime& b) { return a.ms > b.ms; });
  std::string text;
  for (const KernelTime& time : sorted)
    text += fmt::format("  {:28} {:9.3f} ms {:5.1f} % {:6} launches {:9.2f} us each\n", time.name,
                        time.ms, 100 * time.ms / total_ms(), time.launches,
                        1000 * time.ms / time.launches);
  return text;
}

}  // namespace ds4
