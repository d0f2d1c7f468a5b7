#include "agent/stage/batch_times.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace ds4::agent {
namespace {

constexpr double kNewest = 0.125;               // weight of the newest batch in a mean
constexpr std::uint64_t kForgottenAfter = 512;  // batches
constexpr std::uint32_t kFewestRows = 16;       // worth a frame of their own
/// What a batch costs beside its computing: wake-ups, the way to the next stage.
constexpr std::chrono::microseconds kOwnCost{200};

/// The power of two below, as an index.
std::size_t size_of(std::uint32_t rows) {
  return static_cast<std::size_t>(std::bit_width(rows)) - 1;
}

double mean(double former, double newest) {
  return former + (newest - former) * kNewest;
}

}  // namespace

bool BatchTimes::is_fresh(const Size& size) const {
  return size.seen > 0 && batches_ - size.seen < kForgottenAfter;
}

void BatchTimes::add(std::uint32_t rows, Time time) {
  assert(rows > 0);
  Size& size = sizes_[size_of(rows)];
  ++batches_;
  const auto nanoseconds = static_cast<double>(time.count());
  const bool first = !is_fresh(size);
  size.rows = first ? rows : mean(size.rows, rows);
  size.nanoseconds = first ? nanoseconds : mean(size.nanoseconds, nanoseconds);
  size.seen = batches_;
}

std::optional<BatchTimes::Time> BatchTimes::guess(std::uint32_t rows) const {
  const Size* below = nullptr;
  const Size* above = nullptr;
  for (const Size& size : sizes_) {
    if (!is_fresh(size)) continue;
    if (size.rows <= rows) below = &size;
    if (size.rows >= rows && above == nullptr) above = &size;
  }
  if (below == nullptr && above == nullptr) return std::nullopt;
  double nanoseconds = 0;
  if (below == nullptr) {
    nanoseconds = above->nanoseconds;
  } else if (above == nullptr) {
    nanoseconds = below->nanoseconds * rows / below->rows;
  } else if (above->rows <= below->rows) {
    nanoseconds = below->nanoseconds;  // just the size that was seen
  } else {
    const double share = (rows - below->rows) / (above->rows - below->rows);
    nanoseconds = below->nanoseconds + share * (above->nanoseconds - below->nanoseconds);
  }
  return Time(static_cast<Time::rep>(nanoseconds));
}

bool BatchTimes::knows(std::uint32_t rows) const {
  const auto end = sizes_.begin() + std::bit_width(rows);
  return std::any_of(sizes_.begin(), end, [this](const Size& size) { return is_fresh(size); });
}

std::uint32_t BatchTimes::rows_within(Time time, std::uint32_t most) const {
  if (!guess(1)) return most;
  // Nothing promises that a larger batch was never seen to be faster: the first that is too slow
  // ends the search, which goes in steps of a sixteenth.
  std::uint32_t fits = 0;
  for (std::uint32_t rows = 1; rows <= most; rows += std::max(1U, rows / 16)) {
    if (*guess(rows) > time) return fits;
    fits = rows;
  }
  return *guess(most) > time ? fits : most;
}

std::uint32_t BatchTimes::rows_to_pipeline(std::uint32_t rows, std::uint32_t stages,
                                           std::uint32_t most) const {
  if (stages < 2 || rows <= kFewestRows || !guess(1)) return most;
  std::uint32_t best = most;
  Time least = Time::max();
  for (std::uint32_t size = std::min(most, kFewestRows);; size = std::min(most, size * 5 / 4)) {
    const std::uint32_t batches = (rows + size - 1) / size;
    const Time time = (batches + stages - 1) * (*guess(std::min(rows, size)) + kOwnCost);
    if (time < least) {
      least = time;
      best = size;
    }
    if (size == most) break;
  }
  // Larger ones were guessed in proportion, at which they never look better: one of them is tried.
  const bool is_untried = best * 2 <= most && !is_fresh(sizes_[size_of(best * 2)]);
  return is_untried && best * 2 * stages <= rows ? best * 2 : best;
}

}  // namespace ds4::agent
