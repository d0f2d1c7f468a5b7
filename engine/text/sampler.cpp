#include "engine/text/sampler.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "engine/text/philox.h"

namespace ds4 {
namespace {

/// The lowest id among the largest finite logits; none: -1.
Pick most_likely(std::span<const float> logits) {
  Pick best{-1, 0, -std::numeric_limits<float>::infinity(), 0};
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > best.peak && is_finite(logits[i])) {
      best.peak = logits[i];
      best.token = static_cast<std::int32_t>(i);
    }
  }
  return best;
}

}  // namespace

std::uint64_t uniform_at(std::uint64_t seed, std::uint64_t position) {
  const auto low = [](std::uint64_t v) { return static_cast<std::uint32_t>(v); };
  const auto high = [](std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); };
  const PhiloxCounter random =
      philox4x32({low(position), high(position), 0, 0}, {low(seed), high(seed)});
  return (static_cast<std::uint64_t>(random[1]) << 32 | random[0]) >> 11;
}

Draw make_draw(const SamplingParams& params, std::uint64_t position) {
  constexpr double kTopPUnits = 0x1p32;
  Draw draw{};
  draw.greedy = !(params.temperature > 0);
  if (draw.greedy) return draw;
  draw.scale = static_cast<float>(
      std::min(double{kLog2E} / double{params.temperature}, double{kLargestFloat}));
  draw.top_k = params.top_k;
  // Not a number: off.
  draw.top_p = static_cast<std::uint64_t>(
      (params.top_p < 1 ? std::max(0.0, double{params.top_p}) : 1.0) * kTopPUnits);
  draw.least_weight =
      params.min_p > 0
          ? static_cast<std::uint64_t>(std::min(1.0, double{params.min_p}) * double{kFullWeight})
          : 0;
  draw.uniform = uniform_at(params.seed, position);
  return draw;
}

SampledToken to_token(const Pick& pick) {
  if (pick.token < 0) return {0, std::numeric_limits<float>::quiet_NaN()};
  const double total = static_cast<double>(pick.total) / static_cast<double>(kFullWeight);
  return {pick.token, static_cast<float>(double{pick.logit} - double{pick.peak} - std::log(total))};
}

/// Token and logit of the least likely token that stays.
struct Sampler::Last {
  float logit = -std::numeric_limits<float>::infinity();
  std::uint32_t id = 0;

  bool keeps(float other, std::uint32_t other_id) const {
    return !more_likely(logit, id, other, other_id);
  }
};

Sampler::Sampler(std::uint32_t vocabulary) : weights_(vocabulary) {
  order_.reserve(vocabulary);
}

Pick Sampler::pick(std::span<const float> logits, const Draw& draw) {
  assert(logits.size() == weights_.size());
  Pick pick = most_likely(logits);
  if (pick.token < 0) return pick;
  for (const float logit : logits) {
    if (is_finite(logit)) pick.total += weight_of(logit, pick.peak, kLog2E);
  }
  if (!draw.greedy) {
    for (std::size_t i = 0; i < logits.size(); ++i) {
      weights_[i] = is_finite(logits[i]) ? weight_of(logits[i], pick.peak, draw.scale) : 0;
    }
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
