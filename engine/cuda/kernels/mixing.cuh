#pragma once
// How a block's output returns to the four streams. Written once and with every rounding spelled
// out: the last layer of a slice spreads in another kernel than the layers before it.
#include "engine/cuda/kernels/common.cuh"

namespace ds4::cuda {

inline constexpr int kStreamCount = 4;

/// 1 / (1 + e^-x)
__device__ __forceinline__ float sigmoid(float x) {
  return __fdiv_rn(1.0f, __fadd_rn(1.0f, expf(-x)));
}

/// The pending output at column `e` of a row.
__device__ __forceinline__ float pending_value(const Pending& pending, const Sizes& sizes,
                                               std::uint32_t row, std::uint32_t rows,
                                               std::uint32_t e) {
  const std::size_t width = sizes.n_embd;
  if (pending.y != nullptr) return pending.y[row * width + e];
  // Loads first, sums then: each load is a wait of its own otherwise.
  constexpr std::uint32_t kAtOnce = 8;
  const std::uint32_t used = sizes.n_expert_used;
  float total = 0;
  for (std::uint32_t first = 0; first < used; first += kAtOnce) {
    float value[kAtOnce], weight[kAtOnce];
#pragma unroll
    for (std::uint32_t i = 0; i < kAtOnce; ++i) {
      if (first + i >= used) continue;
      const std::size_t at = std::size_t{row} * used + first + i;
      value[i] = pending.down[pending.row_entry[at] * width + e];
      weight[i] = pending.row_weight[at];
    }
#pragma unroll
    for (std::uint32_t i = 0; i < kAtOnce; ++i)
      if (first + i < used) total = __fmaf_rn(value[i], weight[i], total);
  }
  return __fadd_rn(total, pending.down[(std::size_t{rows} * used + row) * width + e]);
}

/// s[d] = post[d] * y + sum_s cross[s][d] * s[s]
__device__ __forceinline__ void spread(float (&s)[kStreamCount], const float* mix, float y) {
  float next[kStreamCount];
#pragma unroll
  for (int d = 0; d < kStreamCount; ++d) {
    float total = __fmul_rn(y, mix[d]);
#pragma unroll
    for (int from = 0; from < kStreamCount; ++from)
      total = __fmaf_rn(s[from], mix[kStreamCount + from * kStreamCount + d], total);
    next[d] = total;
  }
#pragma unroll
  for (int d = 0; d < kStreamCount; ++d) s[d] = next[d];
}

/// post and cross of one row, by one thread. Reciprocals are a last bit off (__fdividef): forty
/// follow one another.
__device__ inline void finish_mix(const MixArgs& args, const Sizes& sizes, std::uint32_t row) {
  const float* logits = args.logits + std::size_t{row} * kMixOutputs;
  float* mix = args.mix + std::size_t{row} * kMixKept;
  float c[kStreamCount][kStreamCount];
#pragma unroll
  for (int s = 0; s < kStreamCount; ++s) {
    mix[s] = 2 * sigmoid(logits[kStreamCount + s]);
    float top = -3.4e38f, sum = 0;
#pragma unroll
    for (int d = 0; d < kStreamCount; ++d) {
      c[s][d] = logits[2 * kStreamCount + s * kStreamCount + d];
      top = fmaxf(top, c[s][d]);
    }
#pragma unroll
    for (int d = 0; d < kStreamCount; ++d) sum += c[s][d] = expf(c[s][d] - top);
#pragma unroll
    for (int d = 0; d < kStreamCount; ++d) c[s][d] = c[s][d] / sum + sizes.hc_eps;
  }
  const auto columns = [&] {
#pragma unroll
    for (int d = 0; d < kStreamCount; ++d) {
      const float inverse =
          __fdividef(1.0f, ((c[0][d] + c[1][d]) + (c[2][d] + c[3][d])) + sizes.hc_eps);
#pragma unroll
      for (int s = 0; s < kStreamCount; ++s) c[s][d] *= inverse;
    }
  };
  columns();
  for (std::uint32_t i = 1; i < sizes.sinkhorn_iterations; ++i) {
#pragma unroll
    for (int s = 0; s < kStreamCount; ++s) {
      const float inverse =
          __fdividef(1.0f, ((c[s][0] + c[s][1]) + (c[s][2] + c[s][3])) + sizes.hc_eps);
#pragma unroll
      for (int d = 0; d < kStreamCount; ++d) c[s][d] *= inverse;
    }
    columns();
  }
#pragma unroll
  for (int s = 0; s < kStreamCount; ++s)
#pragma unroll
    for (int d = 0; d < kStreamCount; ++d) mix[kStreamCount + s * kStreamCount + d] = c[s][d];
}

}  // namespace ds4::cuda
