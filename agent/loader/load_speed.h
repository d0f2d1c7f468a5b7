#pragma once
// How far a load is, how fast it goes, and how long it will take.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "agent/wire/control.h"
#include "engine/residency/load_options.h"

namespace ds4::agent {

/// Pure: seconds for what is left, at the mean speed of what was loaded since the beginning. 0 if
/// nothing is left or nothing is known.
std::uint64_t seconds_left(std::uint64_t loaded_bytes, std::uint64_t left_bytes, double seconds);

/// "12.00 GiB read in 8.10 s (1.59 GB/s), 3.00 GiB were resident already, ...".
std::string describe(const LoadFigures& figures);

/// Thread rule: begin() and count() from the loading thread, progress() from any.
class LoadSpeed {
 public:
  void begin();
  void count(std::uint64_t bytes_done, std::uint64_t bytes_total);
  wire::LoadProgress progress() const;

 private:
  // One reader's view may mix two updates: it is shown to people, and the next one is right.
  std::atomic<std::uint64_t> done_{0};
  std::atomic<std::uint64_t> total_{0};
  std::atomic<std::uint64_t> first_{0};  // of the first count(): was there before
  std::atomic<bool> counted_{false};
  std::atomic<std::int64_t> began_ns_{0};  // steady clock
};

}  // namespace ds4::agent
