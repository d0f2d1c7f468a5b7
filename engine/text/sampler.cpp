#include "engine/text/sampler.h"

#include <algorithm>
#include <cassert>
#include <limits>

#include "engine/cpu/ops.h"

namespace ds4 {

/// Token and logit of the least likely token that stays.
struct Sampler::Last {
  float logit = -std::numeric_limits<float>::infinity();
  std::uint32_t id = 0;

  bool keeps(float other, std::uint32_t other_id) const {
    return !more_likely(logit, id, other, other_id);
  }
};

Sampler::Sampler(std::uint32_t vocabulary, cpu::Isa isa)
    : ops_(&cpu::ops_for(isa)), weights_(vocabulary) {
  order_.reserve(vocabulary);
}

Pick Sampler::pick(std::span<const float> logits, const Draw& draw) {
  assert(logits.size() == weights_.size());
  const float peak = ops_->draw_peak(logits.data(), logits.size());
  if (!is_finite(peak)) return {-1, 0, peak, 0};
  Pick pick{};
  pick.peak = peak;
  pick.total = ops_->draw_weights(logits.data(), logits.size(), peak, kLog2E, nullptr);
  if (draw.greedy) {
    pick.token =
        static_cast<std::int32_t>(std::find(logits.begin(), logits.end(), peak) - logits.begin());
  } else {
    ops_->draw_weights(logits.data(), logits.size(), peak, draw.scale, weights_.data());
    pick.token = static_cast<std::int32_t>(choose(logits, draw));
  }
  pick.logit = logits[static_cast<std::size_t>(pick.token)];
  return pick;
}

std::uint32_t Sampler::choose(std::span<const float> logits, const Draw& draw) {
  const Last last = cut(logits, draw);
  const auto size = static_cast<std::uint32_t>(logits.size());
  std::uint64_t total = 0;
  for (std::uint32_t id = 0; id < size; ++id) {
    if (weights_[id] < draw.least_weight || !last.keeps(logits[id], id)) weights_[id] = 0;
    total += weights_[id];
  }
  const std::uint64_t target = draw_target(total, draw.uniform);
  std::uint64_t sum = 0;
  std::uint32_t id = 0;
  while ((sum += weights_[id]) <= target) ++id;
  return id;
}

/// Puts the most likely of order_[from..] into order_[from, to), sorted.
void Sampler::sort_front(std::span<const float> logits, std::size_t from, std::size_t to) {
  const auto by_likelihood = [logits](std::uint32_t a, std::uint32_t b) {
    return more_likely(logits[a], a, logits[b], b);
  };
  const auto begin = order_.begin();
  const auto first = begin + static_cast<std::ptrdiff_t>(from);
  const auto end = begin + static_cast<std::ptrdiff_t>(to);
  if (end != order_.end()) std::nth_element(first, end, order_.end(), by_likelihood);
  std::sort(first, end, by_likelihood);
}

/// Of top_k and top_p. Only as much is sorted as they need.
Sampler::Last Sampler::cut(std::span<const float> logits, const Draw& draw) {
  const bool by_mass = draw.top_p >> 32 == 0;
  Last last;
  if (draw.top_k == 0 && !by_mass) return last;
  order_.clear();
  for (std::uint32_t id = 0; id < logits.size(); ++id) {
    if (is_finite(logits[id])) order_.push_back(id);
  }
  std::size_t sorted = 0;
  const auto last_of = [&](std::size_t count) {
    return Last{logits[order_[count - 1]], order_[count - 1]};
  };
  if (draw.top_k != 0 && draw.top_k < order_.size()) {
    sort_front(logits, 0, sorted = draw.top_k);
    order_.resize(draw.top_k);
    last = last_of(draw.top_k);
  }
  if (!by_mass) return last;
  std::uint64_t total = 0;
  for (const std::uint32_t id : order_) total += weights_[id];
  const std::uint64_t wanted = mass_wanted(total, draw.top_p);
  std::uint64_t sum = 0;
  std::size_t step = 64;  // usually enough; sorting all would cost more than everything else here
  for (std::size_t count = 0; sum < wanted;) {
    if (count == sorted) {
      sorted = std::min(order_.size(), sorted + step);
      sort_front(logits, count, sorted);
      step *= 4;
    }
    sum += weights_[order_[count++]];
    last = last_of(count);
  }
  return last;
}

}  // namespace ds4
