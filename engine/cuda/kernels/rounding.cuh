#pragma once
// Rotary positions, and the rounding of cached values: engine/cpu/rounding_kernels.h, bit for bit.
#include "engine/cuda/kernels/common.cuh"

namespace ds4::cuda {

inline constexpr float kFp8Largest = 448.0f, kFp8Least = 1e-4f, kFp4Largest = 6.0f;

/// Smallest e with largest / 2^e <= limit, bounded.
__device__ __forceinline__ int scale_exponent(float largest, float limit) {
  const std::uint32_t b = __float_as_uint(__fdiv_rn(largest, limit));
  const int exponent = static_cast<int>(b >> 23) - 127 + ((b & 0x7FFFFF) != 0 ? 1 : 0);
  return max(-117, min(117, exponent));
}
__device__ __forceinline__ float power_of_two(int exponent) {
  return __uint_as_float(static_cast<std::uint32_t>(exponent + 127) << 23);
}
/// A magnitude to a multiple of `unit`, ties to even.
__device__ __forceinline__ float round_to(float x, float unit) {
  const float bias = __fmul_rn(unit, 0x1p23f);
  return __fsub_rn(__fadd_rn(x, bias), bias);
}

/// `most` is the largest magnitude of x's block.
__device__ __forceinline__ float round_fp8(float x, float most) {
  const int exponent = scale_exponent(fmaxf(most, kFp8Least), kFp8Largest);
  const float small = fminf(fabsf(x) * power_of_two(-exponent), kFp8Largest);
  const float leading = fmaxf(__uint_as_float(__float_as_uint(small) & 0x7F800000u), 0x1p-6f);
  return copysignf(round_to(small, leading * 0x1p-3f) * power_of_two(exponent), x);
}
__device__ __forceinline__ float round_fp4(float x, float most) {
  if (most == 0) return x;
  const int exponent = scale_exponent(most, kFp4Largest);
  const float small = fminf(fabsf(x) * power_of_two(-exponent), kFp4Largest);
  const float unit = small < 2.0f ? 0.5f : (small < 4.0f ? 1.0f : 2.0f);
  return copysignf(round_to(small, unit) * power_of_two(exponent), x);
}

/// (a, b) turned by the pair's angle.
__device__ __forceinline__ void turn(float& a, float& b, float cosine, float sine) {
  const float x = a * cosine - b * sine;
  b = a * sine + b * cosine;
  a = x;
}

inline constexpr std::uint32_t kIndexDim = 128;  // of an index row: four values a lane

/// An index row held by a warp, v[i] of lane l being value 4l + i: its rotary positions, and in the
/// official graph a Hadamard transform and FP4.
__device__ inline void finish_index_row(float (&v)[4], const float* angles, std::uint32_t rope_dim,
                                        bool official) {
  const int lane = threadIdx.x % kWarp;
  const int at = 4 * lane - static_cast<int>(kIndexDim - rope_dim);
  if (at >= 0) {
    turn(v[0], v[1], angles[at], angles[at + 1]);
    turn(v[2], v[3], angles[at + 2], angles[at + 3]);
  }
  if (!official) return;
  const float a = v[0] + v[1], b = v[0] - v[1], c = v[2] + v[3], d = v[2] - v[3];
  v[0] = a + c, v[1] = b + d, v[2] = a - c, v[3] = b - d;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float other = __shfl_xor_sync(kFullWarp, v[i], step);
      v[i] = (lane & step) == 0 ? v[i] + other : other - v[i];
    }
  }
  float most = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[i] *= 1.0f / sqrtf(static_cast<float>(kIndexDim));
    most = fmaxf(most, fabsf(v[i]));
  }
#pragma unroll
  for (int step = 1; step < 8; step *= 2)
    most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, step));
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = round_fp4(v[i], most);
}

}  // namespace ds4::cuda
