#include "engine/text/sampler.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "engine/text/philox.h"

namespace ds4 {
namespace {

constexpr std::int32_t kNoToken = -1;

/// The lowest id among the largest finite logits; kNoToken if none is finite.
std::int32_t most_likely(std::span<const float> logits) {
  std::int32_t best = kNoToken;
  float peak = -std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > peak && std::isfinite(logits[i])) {
      peak = logits[i];
      best = static_cast<std::int32_t>(i);
    }
  }
  return best;
}

/// log(sum(exp(logits))) over the finite ones.
double log_sum_exp(std::span<const float> logits, float peak) {
  double sum = 0;
  for (const float logit : logits) {
    if (std::isfinite(logit)) sum += std::exp(logit - peak);
  }
  return peak + std::log(sum);
}

}  // namespace

double uniform_at(std::uint64_t seed, std::uint64_t position) {
  const auto low = [](std::uint64_t v) { return static_cast<std::uint32_t>(v); };
  const auto high = [](std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); };
  const PhiloxCounter random =
      philox4x32({low(position), high(position), 0, 0}, {low(seed), high(seed)});
  const std::uint64_t bits = static_cast<std::uint64_t>(random[1]) << 32 | random[0];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

Sampler::Sampler(std::uint32_t vocabulary) : weights_(vocabulary) {
  order_.reserve(vocabulary);
}

SampledToken Sampler::sample(std::span<const float> logits, const SamplingParams& params,
                             std::uint64_t position) {
  assert(logits.size() == weights_.size());
  std::int32_t token = most_likely(logits);
  if (token == kNoToken) return {0, std::numeric_limits<float>::quiet_NaN()};
  const float peak = logits[static_cast<std::size_t>(token)];
  if (params.temperature > 0) token = draw(logits, params, peak, uniform_at(params.seed, position));
  const float logit = logits[static_cast<std::size_t>(token)];
  return {token, static_cast<float>(logit - log_sum_exp(logits, peak))};
}

std::int32_t Sampler::draw(std::span<const float> logits, const SamplingParams& params, float peak,
                           double uniform) {
  order_.clear();
  sorted_ = 0;
  for (std::uint32_t i = 0; i < logits.size(); ++i) {
    if (std::isfinite(logits[i])) order_.push_back(i);
  }
  keep_top_k(logits, params.top_k);
  weigh(logits, params.temperature, peak);
  keep_top_p(logits, params.top_p);
  keep_min_p(params.min_p);

  double total = 0;
  for (const std::uint32_t id : order_) total += weights_[id];
  const double target = uniform * total;
  double sum = 0;
  std::uint32_t last = order_.front();
  for (const std::uint32_t id : order_) {
    if (weights_[id] == 0) continue;
    sum += weights_[id];
    last = id;
    if (sum > target) break;
  }
  return static_cast<std::int32_t>(last);
}

/// Puts the most likely of order_[from..] into order_[from, to), sorted.
void Sampler::sort_front(std::span<const float> logits, std::size_t from, std::size_t to) {
  const auto more_likely = [logits](std::uint32_t a, std::uint32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  const auto begin = order_.begin();
  const auto first = begin + static_cast<std::ptrdiff_t>(from);
  const auto end = begin + static_cast<std::ptrdiff_t>(to);
  if (end != order_.end()) std::nth_element(first, end, order_.end(), more_likely);
  std::sort(first, end, more_likely);
  sorted_ = to;
}

void Sampler::keep_top_k(std::span<const float> logits, std::uint32_t top_k) {
  if (top_k == 0 || top_k >= order_.size()) return;
  sort_front(logits, 0, top_k);
  order_.resize(top_k);
}

void Sampler::weigh(std::span<const float> logits, float temperature, float peak) {
  // In double, where neither the difference nor the quotient can overflow into NaN.
  const double wide_peak = peak;
  const double wide_temperature = temperature;
  for (const std::uint32_t id : order_) {
    weights_[id] = std::exp(static_cast<float>((logits[id] - wide_peak) / wide_temperature));
  }
}

void Sampler::keep_top_p(std::span<const float> logits, float top_p) {
  if (!(top_p < 1)) return;
  double total = 0;
  for (const std::uint32_t id : order_) total += weights_[id];
  const double target = top_p * total;
  double sum = 0;
  std::size_t step = 64;  // usually enough; sorting all would cost more than everything else here
  for (std::size_t i = 0; i < order_.size(); ++i) {
    if (i == sorted_) {
      sort_front(logits, sorted_, std::min(order_.size(), sorted_ + step));
      step *= 4;
    }
    sum += weights_[order_[i]];
    if (sum >= target) {
      order_.resize(i + 1);
      return;
    }
  }
}

void Sampler::keep_min_p(float min_p) {
  if (!(min_p > 0)) return;
  // The most likely token weighs exactly 1.
  const float least = std::min(min_p, 1.0f);
  std::erase_if(order_, [&](std::uint32_t id) { return weights_[id] < least; });
}

}  // namespace ds4
