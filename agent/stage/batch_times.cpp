#include "agent/stage/batch_times.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>

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

/// Least squares of relative errors: a batch of 500 rows shall not outweigh one of 50. Fewer rows
/// than a prompt is ever divided into tell nothing: with many experts, the first rows cost more.
std::optional<BatchTimes::Line> BatchTimes::line() const {
  double n = 0, x = 0, y = 0, xx = 0, xy = 0;
  for (const Size& size : sizes_) {
    if (!is_fresh(size) || size.rows < kFewestRows) continue;
    const double weight = 1 / (size.nanoseconds * size.nanoseconds + 1);
    n += weight;
    x += weight * size.rows;
    y += weight * size.nanoseconds;
    xx += weight * size.rows * size.rows;
    xy += weight * size.rows * size.nanoseconds;
  }
  const double spread = n * xx - x * x;
  if (!(spread > 1e-6 * n * xx)) return std::nullopt;  // of one size
  const double per_row = (n * xy - x * y) / spread;
  return Line{std::max(0.0, (y - per_row * x) / n), per_row};
}

/// With batches of c rows that take fixed + per_row * c, the last stage begins stages - 1 batches
/// late and then has rows / c of them to run. The sum is least at the c below.
std::uint32_t BatchTimes::rows_to_pipeline(std::uint32_t rows, std::uint32_t stages,
                                           std::uint32_t most) const {
  const auto known = line();
  if (stages < 2 || !known || known->per_row <= 0) return most;
  const double fixed =
      known->fixed + static_cast<double>(std::chrono::nanoseconds(kOwnCost).count());
  const double best = std::sqrt(rows * fixed / ((stages - 1) * known->per_row));
  return static_cast<std::uint32_t>(std::clamp<double>(best, std::min(most, kFewestRows), most));
}

}  // namespace ds4::agent
