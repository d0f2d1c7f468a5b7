#pragma once
// What a batch of so many rows takes on this stage, learnt from the batches that ran.
//
// A few rows cost little more than one, because every batch reads weights; many rows cost in
// proportion. Where the one becomes the other depends on the model and the machine, so it is
// measured: the mean time of recent batches per power of two of their rows, and straight lines in
// between. What has not been seen for long is forgotten, so that one bad moment (a cold page cache,
// a busy neighbour) does not rule a size out for ever.
//
// Thread rule: one thread at a time.
#include <array>
#include <chrono>
#include <cstdint>
#include <optional>

namespace ds4::agent {

class BatchTimes {
 public:
  using Time = std::chrono::nanoseconds;

  /// `rows` at least 1.
  void add(std::uint32_t rows, Time time);
  /// Below the smallest size seen: as that one; above the largest: in proportion. None before any.
  std::optional<Time> guess(std::uint32_t rows) const;
  /// Whether a batch of about so many rows, or fewer, was seen.
  bool knows(std::uint32_t rows) const;
  /// The most rows, up to `most`, that take no longer than `time`; 0 if one row takes longer.
  /// `most` before anything is known.
  std::uint32_t rows_within(Time time, std::uint32_t most) const;
  /// In batches of how many rows, up to `most`, a prompt of `rows` tokens is through `stages`
  /// stages like this one soonest: small batches keep all stages busy, large ones are done sooner.
  /// `most` before two sizes are known.
  std::uint32_t rows_to_pipeline(std::uint32_t rows, std::uint32_t stages,
                                 std::uint32_t most) const;

 private:
  struct Size {
    double rows = 0;         // mean of those seen
    double nanoseconds = 0;  // and what they took
    std::uint64_t seen = 0;  // at which count of batches; 0: never, or forgotten
  };

  struct Line {
    double fixed = 0;  // nanoseconds
    double per_row = 0;
  };

  bool is_fresh(const Size& size) const;
  std::optional<Line> line() const;  // of batches of prompts; none before two sizes are known

  std::array<Size, 32> sizes_{};  // by the power of two below
  std::uint64_t batches_ = 0;
};

}  // namespace ds4::agent
