#include "engine/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace ds4 {
namespace {

/// The dimension pair that turns `turns` times within the original context.
double pair_of_turns(double turns, const HyperParams& hp, double base) {
  const double wavelength = hp.yarn_original_context / (turns * 2 * std::numbers::pi);
  return hp.rope_dim * std::log(wavelength) / (2 * std::log(base));
}

}  // namespace

Rope::Rope(const HyperParams& hp, bool compressed) : frequency_(hp.rope_dim / 2) {
  const double base = compressed ? hp.compress_rope_base : hp.rope_base;
  const double last = hp.rope_dim - 1.0;
  const double low = std::clamp(std::floor(pair_of_turns(hp.yarn_beta_fast, hp, base)), 0.0, last);
  double high = std::clamp(std::ceil(pair_of_turns(hp.yarn_beta_slow, hp, base)), 0.0, last);
  if (high == low) high += 0.001;
  for (std::size_t i = 0; i < frequency_.size(); ++i) {
    const double pair = static_cast<double>(i);
    frequency_[i] = std::pow(base, -2.0 * pair / hp.rope_dim);
    if (!compressed) continue;
    const double slowed = std::clamp((pair - low) / (high - low), 0.0, 1.0);
    frequency_[i] *= (1.0 - slowed) + slowed / hp.yarn_factor;
  }
}

void Rope::fill(std::uint32_t position, float* table) const {
  for (std::size_t i = 0; i < frequency_.size(); ++i) {
    const double angle = position * frequency_[i];
    table[2 * i] = static_cast<float>(std::cos(angle));
    table[2 * i + 1] = static_cast<float>(std::sin(angle));
  }
}

void Rope::turn(float* row, std::uint32_t n, const float* table, std::uint32_t rope_dim) {
  float* x = row + (n - rope_dim);
  for (std::uint32_t i = 0; i < rope_dim; i += 2) {
    const float cosine = table[i], sine = table[i + 1];
    const float a = x[i], b = x[i + 1];
    x[i] = a * cosine - b * sine;
    x[i + 1] = a * sine + b * cosine;
  }
}

void Rope::turn_back(float* row, std::uint32_t n, const float* table, std::uint32_t rope_dim) {
  float* x = row + (n - rope_dim);
  for (std::uint32_t i = 0; i < rope_dim; i += 2) {
    const float cosine = table[i], sine = table[i + 1];
    const float a = x[i], b = x[i + 1];
    x[i] = a * cosine + b * sine;
    x[i + 1] = b * cosine - a * sine;
  }
}

}  // namespace ds4
