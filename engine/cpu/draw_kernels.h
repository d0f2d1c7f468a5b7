#pragma once
// The passes over a whole vocabulary that a draw makes, in terms of Vec; engine/text/draw.h has
// their arithmetic one token at a time, and these agree with it bit for bit. For the ops_*.cpp
// translation units only, so nothing of that header is called but by vectors.
#include "engine/cpu/ops_vec.h"
#include "engine/text/draw.h"

namespace ds4::cpu {
namespace {

constexpr float kNoLogit = -__builtin_inff();  // weighs nothing

inline VecInt are_finite(Vec x) {
  return (x >= -kLargestFloat) & (x <= kLargestFloat);
}

/// x[0, n) with kNoLogit behind it, for n < kWidth.
inline Vec load_few(const float* x, std::size_t n) {
  Vec v = splat(kNoLogit);
  std::memcpy(&v, x, n * sizeof(float));
  return v;
}

float draw_peak(const float* logits, std::size_t n) {
  Vec best = splat(kNoLogit);
  const auto look = [&](Vec x) { best = max(best, are_finite(x) ? x : splat(kNoLogit)); };
  std::size_t i = 0;
  for (; i + kWidth <= n; i += kWidth) look(load(logits + i));
  look(load_few(logits + i, n - i));
  return largest(best);
}

/// Whole numbers are twice as wide as floats, so a vector of weights comes in two.
struct VecWeights {
  typedef std::uint32_t HalfBits __attribute__((vector_size(kWidth / 2 * sizeof(std::uint32_t))));
  typedef std::uint64_t Half __attribute__((vector_size(kWidth / 2 * sizeof(std::uint64_t))));
  Half half[2];
};

/// weight_of(), whose steps these are; 0 for what is not finite.
inline void weigh_logits(Vec x, float peak, float scale, VecWeights& weights) {
  const Vec below = max(min(x, splat(peak)) - peak, splat(-kLargestFloat));
  const Vec y = max(below * scale, splat(kLeastPower));
  const VecInt whole = __builtin_convertvector(y - 0.5f, VecInt);
  const Vec p = draw_detail::exp2_series(y - __builtin_convertvector(whole, Vec));
  const VecInt digits = are_finite(x) ? __builtin_convertvector(p * 0x1p23f, VecInt) : VecInt{};
  const VecInt shift = -whole;
  VecWeights::HalfBits digit_halves[2], shift_halves[2];
  std::memcpy(digit_halves, &digits, sizeof digits);
  std::memcpy(shift_halves, &shift, sizeof shift);
  for (int i = 0; i < 2; ++i) {
    weights.half[i] = __builtin_convertvector(digit_halves[i], VecWeights::Half) << 17 >>
                      __builtin_convertvector(shift_halves[i], VecWeights::Half);
  }
}

std::uint64_t draw_weights(const float* logits, std::size_t n, float peak, float scale,
                           std::uint64_t* weights) {
  VecWeights some, sums{};
  const auto weigh = [&](Vec x) {
    weigh_logits(x, peak, scale, some);
    for (int i = 0; i < 2; ++i) sums.half[i] += some.half[i];
  };
  std::size_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    weigh(load(logits + i));
    if (weights != nullptr) std::memcpy(weights + i, &some, sizeof some);
  }
  weigh(load_few(logits + i, n - i));
  if (weights != nullptr) std::memcpy(weights + i, &some, (n - i) * sizeof *weights);
  const VecWeights::Half sum = sums.half[0] + sums.half[1];
  std::uint64_t total = 0;
  for (std::size_t lane = 0; lane < kWidth / 2; ++lane) total += sum[lane];
  return total;
}

}  // namespace
}  // namespace ds4::cpu
