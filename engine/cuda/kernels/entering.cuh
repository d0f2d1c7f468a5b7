#pragma once
// What kernels that enter a block have in common, those for few rows (streams.cu) and those for
// many (wide_entering.cu): they give a row the same bits.
//
// A row is the work of a cluster of up to eight blocks, each with its slice of the columns of all
// four streams. One exchange through the cluster's shared memory is enough: the norm of the mixed
// row follows from the ten products of the streams with one another, which are summed up together
// with the outputs of the hyper-connection. The order of these sums: in a slice, lane l of a warp
// takes columns 8l .. 8l + 7 of each 256 in turn (of one stream after the other, where a sum is
// over all four), lanes are added up as warp_sum() does, and slices follow one another.
#include <cooperative_groups.h>

#include "engine/cuda/kernels/mixing.cuh"
#include "engine/cuda/kernels/quantised.cuh"

namespace ds4::cuda {

inline constexpr int kPairs = 10;  // of four streams, each with itself and the others
inline constexpr unsigned kMostSlices = 8;
inline constexpr std::uint32_t kTurn = 8 * kWarp;  // columns that a warp takes at a time

struct EnterArgs {
  Sizes sizes;
  const void* fn;
  const float* base;
  const float* scale;
  const float* norm;
  Pending pending;
  const std::uint32_t* wanted;  // rows, or null: all
  std::uint32_t n;
  float* streams;
  const float* mix;
  float* logits;
  BlockInput x;
};

/// As many blocks as leave each whole groups of the columns whose sums become integers together.
inline unsigned slices_of(std::uint32_t width) {
  unsigned slices = kMostSlices;
  while (slices > 1 && width % (slices * kSumBlockColumns) != 0) slices /= 2;
  return slices;
}

// Slices in shared memory consist of turns, whole ones. In a turn, pieces of four columns lie so
// that the eight columns of a lane, or pieces side by side, are read without meeting in a bank.

__device__ __forceinline__ std::uint32_t place(std::uint32_t column) {
  const std::uint32_t piece = column / 4, odd = piece % 2;
  return odd * (kTurn / 2) + 4 * (piece / 2 % kWarp ^ 4 * odd) + column % 4;
}
inline __host__ __device__ std::uint32_t slice_pitch(std::uint32_t columns) {
  return (columns + kTurn - 1) / kTurn * kTurn;
}
/// Columns 8l .. 8l + 7 of the turn that begins at `turn`.
__device__ __forceinline__ void load_lane(const float* turn, float (&v)[8]) {
  const std::uint32_t lane = threadIdx.x % kWarp;
  const float4 a = *reinterpret_cast<const float4*>(turn + 4 * lane);
  const float4 b = *reinterpret_cast<const float4*>(turn + kTurn / 2 + 4 * (lane ^ 4));
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
  v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

/// Streams of pair 0..9: 00 01 02 03 11 12 13 22 23 33.
__device__ __forceinline__ uint2 streams_of(unsigned pair) {
  const unsigned a = pair < 4 ? 0 : (pair < 7 ? 1 : (pair < 9 ? 2 : 3));
  return make_uint2(a, a + pair - a * (9 - a) / 2);
}

/// total = the sums of all slices, by all threads of each block. `partial` is this block's; no
/// block may leave before the others have read it.
template <int kCount>
__device__ __forceinline__ void add_slices(const cooperative_groups::cluster_group& cluster,
                                           float* partial, float* total) {
  const unsigned slices = cluster.num_blocks();
  for (unsigned i = threadIdx.x; i < kCount; i += blockDim.x) {
    float part[kMostSlices], sum = 0;
#pragma unroll
    for (unsigned s = 0; s < kMostSlices; ++s)
      if (s < slices) part[s] = cluster.map_shared_rank(partial, s)[i];
#pragma unroll
    for (unsigned s = 0; s < kMostSlices; ++s)
      if (s < slices) sum = __fadd_rn(sum, part[s]);
    total[i] = sum;
  }
}

/// What a row's sums make of it: kOutputs outputs, then the pairs.
struct Mixed {
  float inverse, pre[kStreamCount], scale;

  template <int kOutputs>
  __device__ __forceinline__ static Mixed of(const EnterArgs& args, const float* total) {
    Mixed mixed;
    const float* pairs = total + kOutputs;
    const auto width = static_cast<float>(args.sizes.n_embd);
    const float square = __fadd_rn(__fadd_rn(__fadd_rn(pairs[0], pairs[4]), pairs[7]), pairs[9]);
    mixed.inverse = inverse_root(__fdiv_rn(square, kStreamCount * width), args.sizes.rms_eps);
#pragma unroll
    for (int s = 0; s < kStreamCount; ++s)
      mixed.pre[s] = __fadd_rn(sigmoid(mixed.logit(args, total, s, 0)), args.sizes.hc_eps);
    float sum = 0;
    int pair = 0;
#pragma unroll
    for (int a = 0; a < kStreamCount; ++a)
#pragma unroll
      for (int b = a; b < kStreamCount; ++b, ++pair) {
        const float one = __fmul_rn(mixed.pre[a], mixed.pre[b]);
        sum = __fmaf_rn(a == b ? one : __fadd_rn(one, one), pairs[pair], sum);
      }
    mixed.scale = inverse_root(__fdiv_rn(fmaxf(sum, 0.0f), width), args.sizes.rms_eps);
    return mixed;
  }
  /// `part` of the hyper-connection's scales: 0 pre, 1 post, 2 cross.
  __device__ __forceinline__ float logit(const EnterArgs& args, const float* total, unsigned output,
                                         unsigned part) const {
    return __fmaf_rn(__fmul_rn(total[output], inverse), args.scale[part], args.base[output]);
  }
  __device__ __forceinline__ void store_logit(const EnterArgs& args, const float* total,
                                              std::uint32_t row, unsigned output) const {
    args.logits[std::size_t{row} * kMixOutputs + output] =
        logit(args, total, output, output < 4 ? 0 : (output < 8 ? 1 : 2));
  }

 private:
  __device__ __forceinline__ static float inverse_root(float mean, float eps) {
    return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, eps)));
  }
};

/// By a whole warp: what the block reads of a turn of a row. The first stream's begins at `turn`,
/// the others' `pitch` floats behind one another; the lane's first is `column` of the row. Columns
/// behind the last are left out.
__device__ __forceinline__ void write_input(const EnterArgs& args, const Mixed& mixed,
                                            const float* turn, std::uint32_t pitch,
                                            std::uint32_t row, std::uint32_t column) {
  const std::uint32_t width = args.sizes.n_embd;
  float v[8] = {};
  if (column < width) {
#pragma unroll
    for (int s = 0; s < kStreamCount; ++s) {
      float in[8];
      load_lane(turn + s * pitch, in);
#pragma unroll
      for (int k = 0; k < 8; ++k) v[k] = __fmaf_rn(mixed.pre[s], in[k], v[k]);
    }
    const auto* norm = reinterpret_cast<const float4*>(args.norm + column);
    const float4 a = norm[0], b = norm[1];
    const float factors[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    std::uint32_t halves[4];
#pragma unroll
    for (int k = 0; k < 8; ++k) v[k] = __fmul_rn(__fmul_rn(v[k], mixed.scale), factors[k]);
#pragma unroll
    for (int k = 0; k < 4; ++k) halves[k] = bits(__floats2half2_rn(v[2 * k], v[2 * k + 1]));
    *reinterpret_cast<uint4*>(args.x.halves + std::size_t{row} * width + column) =
        make_uint4(halves[0], halves[1], halves[2], halves[3]);
  }
  quantise8(v, args.x.integers, row, column, width);
}

/// enter_block() of many rows. False: not for these sizes.
bool enter_wide(Launcher& launcher, const EnterArgs& args);

}  // namespace ds4::cuda
