#pragma once
// The k best of a stream of scores in bounded memory. What it keeps is defined by the scores alone
// (higher first, then lower index), so the order and grouping of calls cannot change it.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

namespace ds4 {

struct Candidate {
  float score = 0;
  std::uint32_t index = 0;

  bool better_than(const Candidate& other) const {
    return score > other.score || (score == other.score && index < other.index);
  }
};

/// Moves the k best of `candidates` to the front and returns them, in no particular order.
inline std::span<Candidate> keep_best(std::span<Candidate> candidates, std::uint32_t k) {
  if (candidates.size() <= k) return candidates;
  std::nth_element(candidates.begin(), candidates.begin() + (k - 1), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.better_than(b); });
  return candidates.first(k);
}

class TopK {
 public:
  TopK() = default;
  /// `buffer` holds 2 * k candidates.
  TopK(std::span<Candidate> buffer, std::uint32_t k) : buffer_(buffer), k_(k) {}

  /// Indices must ascend from call to call; scores that are not numbers are ignored.
  void add(float score, std::uint32_t index) {
    if (!(score > bar_)) return;  // an equal score with a higher index loses as well
    buffer_[count_++] = {score, index};
    if (count_ == buffer_.size()) prune();
  }
  /// Those of indices from `first` on.
  void add(std::span<const float> scores, std::uint32_t first) {
    for (const float score : scores) add(score, first++);
  }

  /// The best, in no particular order.
  std::span<Candidate> finish() { return keep_best(buffer_.first(count_), k_); }

 private:
  void prune() {
    bar_ = keep_best(buffer_.first(count_), k_).back().score;  // nth_element puts the worst last
    count_ = k_;
  }

  std::span<Candidate> buffer_;
  std::uint32_t k_ = 0;
  std::size_t count_ = 0;
  float bar_ = -std::numeric_limits<float>::infinity();
};

}  // namespace ds4
