#pragma once
// Lines that a stranger can cause at will: a few of them are news, a flood is an attack on the log.
#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

namespace ds4::agent {

/// At most `lines` in a period. One thread at a time.
class Throttle {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  Throttle(std::uint32_t lines, std::chrono::milliseconds period)
      : lines_(lines), period_(period) {}

  /// Whether a line may be written now; if so, how many were held back since the last one.
  std::optional<std::uint64_t> admit(TimePoint now) {
    if (!begin_ || now - *begin_ >= period_) {
      begin_ = now;
      written_ = 0;
    }
    if (written_ < lines_) {
      ++written_;
      return std::exchange(held_back_, 0);
    }
    ++held_back_;
    return std::nullopt;
  }

 private:
  const std::uint32_t lines_;
  const std::chrono::milliseconds period_;
  std::optional<TimePoint> begin_;  // of the period that runs
  std::uint32_t written_ = 0;       // in it
  std::uint64_t held_back_ = 0;
};

}  // namespace ds4::agent
