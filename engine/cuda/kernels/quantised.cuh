#pragma once
// The arithmetic of products in integers: how activations become them, and how a block's exact
// integer result enters a float sum. Every kernel that multiplies Q8_0, Q4_K, Q2_K or IQ2_XXS uses
// the functions here, so that none differs from another in a bit.
//
// For 32 columns of a weights' row and an activation row: D = sum of w * q, exact (|D| < 2^27),
// with
//   Q8_0      w = the values                                w_scale = d
//   Q4_K      w = the 4 bits, 0..15                         w_scale = d * scale
//   Q2_K      w = the 2 bits times their 4-bit scale, 0..45  w_scale = d
//   IQ2_XXS   w = the signed magnitudes, -43..43            w_scale = d * (2 * scale + 1) / 8
// and add_block() adds it to the sum of the segment. Q4_K and Q2_K have minimums, an m of each 32
// or 16 columns: behind the eight blocks of each 256 columns, add_minimums() takes their share
// away, by M = sum over 16 sums of m * sum (Q4_K: each m twice), exact, too. Blocks follow one
// another in order within a segment of kSegment columns, then segments are added in order to 0.
#include "engine/cuda/kernels/formats.cuh"
#include "engine/cuda/kernels/quantised_rows.h"

namespace ds4::cuda {

// Activations ---------------------------------------------------------------------------------

inline constexpr float kLargestQ = 16319.0f;  // 128 * 127 + 63

struct QuantScale {
  float scale, inverse;

  /// From the largest magnitude. A NaN stays one, so that it reaches the product; what is
  /// negligible to any float is 0.
  __device__ __forceinline__ explicit QuantScale(float most) {
    const bool none = most < 0x1p-100f;
    scale = none ? 0.0f : __fdiv_rn(most, kLargestQ);
    inverse = none ? 0.0f : __fdiv_rn(kLargestQ, most);
  }
  __device__ __forceinline__ int q(float x) const { return __float2int_rn(__fmul_rn(x, inverse)); }
};
__device__ __forceinline__ int low_plane(int q) {
  return ((q + 64) & 127) - 64;
}
__device__ __forceinline__ int high_plane(int q) {
  return (q + 64) >> 7;
}
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float most;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(a), "f"(b));
  return most;
}
__device__ __forceinline__ std::uint32_t pack_bytes(int a, int b, int c, int d) {
  return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

/// Eight values, aligned to 16 bytes.
__device__ __forceinline__ void load8_values(const __half* x, float (&v)[8]) {
  const uint4 in = *reinterpret_cast<const uint4*>(x);
  const std::uint32_t pairs[4] = {in.x, in.y, in.z, in.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = __half22float2(as_half2(pairs[i]));
    v[2 * i] = two.x, v[2 * i + 1] = two.y;
  }
}
__device__ __forceinline__ void load8_values(const float* x, float (&v)[8]) {
  const float4 a = reinterpret_cast<const float4*>(x)[0], b = reinterpret_cast<const float4*>(x)[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
  v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

/// By a whole warp: lane l has columns 8l .. 8l + 7 of 256, `column` being its first in the row.
/// Lanes at or behind `cols` (a multiple of 32) have zeros and store nothing.
__device__ __forceinline__ void quantise8(const float (&v)[8], const QuantisedRows& out,
                                          std::uint32_t row, std::uint32_t column,
                                          std::uint32_t cols) {
  float most = fabsf(v[0]);
#pragma unroll
  for (int i = 1; i < 8; ++i) most = max_or_nan(most, fabsf(v[i]));
#pragma unroll
  for (int step = 1; step < 4; step *= 2)
    most = max_or_nan(most, __shfl_xor_sync(kFullWarp, most, step));
  const QuantScale scale(most);
  int q[8], sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    q[i] = scale.q(v[i]);
    sum += q[i];
  }
  const std::size_t at = std::size_t{row} * out.stride + column;
  const bool inside = column < cols;
  if (inside) {
    const auto plane = [&](auto part) {
      return make_uint2(pack_bytes(part(q[0]), part(q[1]), part(q[2]), part(q[3])),
                        pack_bytes(part(q[4]), part(q[5]), part(q[6]), part(q[7])));
    };
    *reinterpret_cast<uint2*>(out.hi + at) = plane([](int x) { return high_plane(x); });
    *reinterpret_cast<uint2*>(out.lo + at) = plane([](int x) { return low_plane(x); });
    if (column % kQuantColumns == 0) out.scale[at / kQuantColumns] = scale.scale;
  }
  if (out.sum_hi == nullptr) return;
  sum += __shfl_xor_sync(kFullWarp, sum, 1);
  const float value = __fmul_rn(scale.scale, __int2float_rn(sum));
  float most_sum = fabsf(value);
#pragma unroll
  for (int step = 2; step < kWarp; step *= 2)
    most_sum = max_or_nan(most_sum, __shfl_xor_sync(kFullWarp, most_sum, step));
  const QuantScale sum_scale(most_sum);
  if (!inside) return;
  if (column % kSumColumns == 0) {
    const int s = sum_scale.q(value);
    out.sum_hi[at / kSumColumns] = static_cast<std::int8_t>(high_plane(s));
    out.sum_lo[at / kSumColumns] = static_cast<std::int8_t>(low_plane(s));
  }
  if (column % kSumBlockColumns == 0) out.sum_scale[at / kSumBlockColumns] = sum_scale.scale;
}

/// The same where a warp's lanes have a value each, 32 columns of the row that begins at
/// `row_begin`, row * stride of any unsigned type. Without sums.
template <typename At>
__device__ __forceinline__ void quantise_lane(float value, const QuantisedRows& out, At row_begin,
                                              std::uint32_t column) {
  float most = fabsf(value);
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2)
    most = max_or_nan(most, __shfl_xor_sync(kFullWarp, most, step));
  const QuantScale scale(most);
  const int q = scale.q(value);
  const At at = row_begin + column;
  out.hi[at] = static_cast<std::int8_t>(high_plane(q));
  out.lo[at] = static_cast<std::int8_t>(low_plane(q));
  if (column % kQuantColumns == 0) out.scale[at / kQuantColumns] = scale.scale;
}

// Results -------------------------------------------------------------------------------------

/// float(128 * hi + lo), rounded once.
__device__ __forceinline__ float plane_sum(int hi, int lo) {
  return __int2float_rn(128 * hi + lo);
}

/// `sum`: plane_sum of a block's two results.
__device__ __forceinline__ float add_block(float acc, float sum, float w_scale, float x_scale) {
  return __fmaf_rn(sum, __fmul_rn(w_scale, x_scale), acc);
}
/// `sum`: plane_sum of the two results of minimums and sums, of 256 columns.
__device__ __forceinline__ float add_minimums(float acc, float sum, float dmin, float sum_scale) {
  return __fmaf_rn(sum, -__fmul_rn(dmin, sum_scale), acc);
}

// Scales of weights: exact, every one ---------------------------------------------------------

__device__ __forceinline__ float w_scale_q8_0(__half d) {
  return __half2float(d);
}
__device__ __forceinline__ float w_scale_q4_k(__half d, std::uint32_t scale) {
  return __fmul_rn(__half2float(d), __uint2float_rn(scale));
}
__device__ __forceinline__ float w_scale_q2_k(__half d) {
  return __half2float(d);
}
/// `scale`: the group's upper four bits.
__device__ __forceinline__ float w_scale_iq2_xxs(float d, std::uint32_t scale) {
  return __fmul_rn(d, __fmul_rn(__uint2float_rn(2 * scale + 1), 0.125f));
}

/// silu(min(gate, limit)) * clamp(up, -limit, limit)
__device__ __forceinline__ float gated(float gate, float up, float limit) {
  const float g = fminf(gate, limit), u = fminf(fmaxf(up, -limit), limit);
  return __fmul_rn(__fdiv_rn(g, __fadd_rn(1.0f, expf(-g))), u);
}

}  // namespace ds4::cuda
