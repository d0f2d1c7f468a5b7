#pragma once
// The kernels behind ops.h, in terms of Vec. For the ops_*.cpp translation units only.
#include <cfloat>

#include "engine/cpu/ops.h"
#include "engine/cpu/ops_vec.h"

namespace ds4::cpu {
namespace {

float sum_squares(const float* x, std::size_t n) {
  Vec a{}, b{}, c{}, d{};
  std::size_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth) {
    const Vec x0 = load(x + i), x1 = load(x + i + kWidth);
    const Vec x2 = load(x + i + 2 * kWidth), x3 = load(x + i + 3 * kWidth);
    a = fma(x0, x0, a);
    b = fma(x1, x1, b);
    c = fma(x2, x2, c);
    d = fma(x3, x3, d);
  }
  for (; i < n; i += kWidth) a = fma(load(x + i), load(x + i), a);
  return sum((a + b) + (c + d));
}

void rms_norm(const float* x, const float* weight, std::size_t n, float eps, float* y) {
  const float mean = sum_squares(x, n) / static_cast<float>(n);
  const Vec scale = splat(1.0f / __builtin_sqrtf(mean + eps));
  for (std::size_t i = 0; i < n; i += kWidth) {
    const Vec normed = load(x + i) * scale;
    store(y + i, weight != nullptr ? normed * load(weight + i) : normed);
  }
}

void swiglu(const float* gate, const float* up, std::size_t n, float limit, float* y) {
  for (std::size_t i = 0; i < n; i += kWidth) {
    const Vec g = min(load(gate + i), splat(limit));
    const Vec u = min(max(load(up + i), splat(-limit)), splat(limit));
    store(y + i, g / (exp(-g) + 1.0f) * u);
  }
}

void gather_streams(const float* streams, const float* w, std::size_t n, float* y) {
  for (std::size_t i = 0; i < n; i += kWidth) {
    Vec total = load(streams + i) * w[0];
    for (std::size_t s = 1; s < 4; ++s) total = fma(load(streams + s * n + i), splat(w[s]), total);
    store(y + i, total);
  }
}

void spread_streams(float* streams, const float* post, const float* mix, const float* y,
                    std::size_t n) {
  for (std::size_t i = 0; i < n; i += kWidth) {
    const Vec out = load(y + i);
    const Vec s0 = load(streams + i), s1 = load(streams + n + i);
    const Vec s2 = load(streams + 2 * n + i), s3 = load(streams + 3 * n + i);
    for (std::size_t d = 0; d < 4; ++d) {
      Vec total = out * post[d];
      total = fma(s0, splat(mix[d]), total);
      total = fma(s1, splat(mix[4 + d]), total);
      total = fma(s2, splat(mix[8 + d]), total);
      total = fma(s3, splat(mix[12 + d]), total);
      store(streams + d * n + i, total);
    }
  }
}

void weighted_sum(const float* x, const std::uint32_t* rows, const float* w, std::size_t count,
                  const float* last, std::size_t n, float* y) {
  for (std::size_t i = 0; i < n; i += kWidth) {
    Vec total{};
    for (std::size_t j = 0; j < count; ++j)
      total = fma(load(x + rows[j] * n + i), splat(w[j]), total);
    store(y + i, total + load(last + i));
  }
}

void sums_clear(const SoftmaxSums& sums, std::size_t n) {
  for (std::size_t i = 0; i < n; i += kWidth) {
    store(sums.max + i, splat(-FLT_MAX));
    store(sums.sum + i, Vec{});
    store(sums.acc + i, Vec{});
  }
}

void sums_add(const SoftmaxSums& sums, const float* value, const float* gate, const float* bias,
              std::size_t n) {
  for (std::size_t i = 0; i < n; i += kWidth) {
    const Vec logit = load(gate + i) + load(bias + i);
    const Vec top = load(sums.max + i);
    // One of the two exponentials, of the old sums' or of the new row's, is of zero.
    const Vec gap = logit - top;
    const Vec small = exp(gap < 0.0f ? gap : -gap);
    const Vec one = splat(1.0f);
    const Vec keep = gap > 0.0f ? small : one;
    const Vec weight = gap > 0.0f ? one : small;
    store(sums.max + i, max(logit, top));
    store(sums.sum + i, fma(load(sums.sum + i), keep, weight));
    store(sums.acc + i, fma(load(sums.acc + i), keep, weight * load(value + i)));
  }
}

void sums_finish(const SoftmaxSums& sums, std::size_t n, float* y) {
  for (std::size_t i = 0; i < n; i += kWidth) store(y + i, load(sums.acc + i) / load(sums.sum + i));
}

}  // namespace
}  // namespace ds4::cpu
