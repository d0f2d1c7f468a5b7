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

template <int kCount>
__device__ __forceinline__ void load_floats(const float* p, float (&v)[kCount]) {
  static_assert(kCount == 1 || kCount == 4);
  if constexpr (kCount == 1) {
    v[0] = *p;
  } else {
    const float4 four = *reinterpret_cast<const float4*>(p);
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
  }
}

/// The pending output at a row's columns from `e` on. `entry` and `weight`: the row's, of
/// Pending::row_entry and row_weight.
template <int kCount>
__device__ __forceinline__ void pending_values(const Pending& pending, const Sizes& sizes,
                                               std::uint32_t row, std::uint32_t rows,
                                               std::uint32_t e, const std::uint32_t* entry,
                                               const float* weight, float (&y)[kCount]) {
  const std::size_t width = sizes.n_embd;
  if (pending.y != nullptr) return load_floats(pending.y + row * width + e, y);
  // Loads first, sums then: each load is a wait of its own otherwise.
  constexpr std::uint32_t kAtOnce = 8;
  const std::uint32_t used = sizes.n_expert_used;
  float shared[kCount], total[kCount] = {};
  load_floats(pending.down + (std::size_t{rows} * used + row) * width + e, shared);
  for (std::uint32_t first = 0; first < used; first += kAtOnce) {
    float value[kAtOnce][kCount], factor[kAtOnce];
#pragma unroll
    for (std::uint32_t i = 0; i < kAtOnce; ++i) {
      if (first + i >= used) continue;
      load_floats(pending.down + entry[first + i] * width + e, value[i]);
      factor[i] = weight[first + i];
    }
#pragma unroll
    for (std::uint32_t i = 0; i < kAtOnce; ++i)
#pragma unroll
      for (int k = 0; k < kCount; ++k)
        if (first + i < used) total[k] = __fmaf_rn(value[i][k], factor[i], total[k]);
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) y[k] = __fadd_rn(total[k], shared[k]);
}
__device__ __forceinline__ float pending_value(const Pending& pending, const Sizes& sizes,
                                               std::uint32_t row, std::uint32_t rows,
                                               std::uint32_t e) {
  const std::size_t first = std::size_t{row} * sizes.n_expert_used;
  float y[1];
  pending_values(pending, sizes, row, rows, e, pending.row_entry + first,
                 pending.row_weight + first, y);
  return y[0];
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
