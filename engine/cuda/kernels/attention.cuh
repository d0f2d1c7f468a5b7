#pragma once
// What both kernels of attention share: a row's keys, the scores of 64 of them, and what becomes of
// a finished row.
#include "engine/cuda/kernels/quantised.cuh"
#include "engine/cuda/kernels/rounding.cuh"

namespace ds4::cuda {

inline constexpr unsigned kAttendThreads = 256, kAttendWarps = kAttendThreads / kWarp;
inline constexpr std::uint32_t kKeyPad = 8;  // halves: eight rows cover all banks

struct AttentionArgs {
  Sizes sizes;
  Attention at;
  const RowEntry* rows;
  const SegmentEntry* segments;
  const float* angles;
  std::uint32_t first_row, n;
};

/// A row's keys: raw rows first, then compressed ones.
struct KeyList {
  const __half* ring;
  const __half* own;  // raw rows of the call
  const __half* compressed;
  const std::uint32_t* chosen;  // null: all
  std::uint32_t raw_first, raw_count, total, first_position, ring_rows, dim;

  __device__ KeyList(const AttentionArgs& args, std::uint32_t row) {
    const Sizes& sizes = args.sizes;
    const RowEntry entry = args.rows[row];
    const SegmentEntry segment = args.segments[entry.segment];
    const CacheLayer at = reinterpret_cast<const CacheLayer*>(segment.cache)[args.at.layer];
    dim = sizes.head_dim;
    ring = reinterpret_cast<const __half*>(segment.cache + at.raw);
    compressed = reinterpret_cast<const __half*>(segment.cache + at.compressed);
    own = args.at.kv + std::size_t{segment.first_row} * dim;
    first_position = segment.first_position;
    ring_rows = at.ring_rows;
    raw_count = min(entry.position + 1, sizes.window);
    raw_first = entry.position + 1 - raw_count;
    const std::uint32_t visible = args.at.ratio == 0 ? 0 : (entry.position + 1) / args.at.ratio;
    const bool all = !args.at.has_index || visible <= sizes.top_k;
    chosen = all ? nullptr : args.at.chosen + std::size_t{row} * sizes.top_k;
    total = raw_count + (all ? visible : sizes.top_k);
  }
  __device__ const __half* key(std::uint32_t i) const {
    if (i >= raw_count) {
      const std::uint32_t b = i - raw_count;
      return compressed + std::size_t{chosen == nullptr ? b : chosen[b]} * dim;
    }
    const std::uint32_t position = raw_first + i;
    if (position >= first_position) return own + std::size_t{position - first_position} * dim;
    return ring + std::size_t{position % ring_rows} * dim;
  }
};

template <int kHeads, int kDim>
struct Tile {
  static constexpr std::uint32_t kPitch = kDim + kKeyPad;            // halves
  static constexpr std::uint32_t kWeightPitch = kKeyPart + kKeyPad;  // halves
  static constexpr std::uint32_t kScorePitch = kKeyPart + 4;         // floats
  __half keys[kKeyPart * kPitch];
  __half q[kHeads * kPitch];
  __half weights[kHeads * kWeightPitch];
  float scores[kHeads * kScorePitch];
  const __half* key[kKeyPart];
};

/// scores = q . keys, unscaled, by a block of kWarps warps.
template <int kHeads, int kDim, int kWarps = kAttendWarps>
__device__ __forceinline__ void score(const __half* queries, const __half* keys, float* scores) {
  using T = Tile<kHeads, kDim>;
  constexpr int kTiles = kHeads / 16;                        // of heads
  constexpr int kKeysOfWarp = kKeyPart / (kWarps / kTiles);  // 8 or 32
  constexpr int kKeyTiles = kKeysOfWarp / 8;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int head0 = warp % kTiles * 16, key0 = warp / kTiles * kKeysOfWarp;
  float acc[kKeyTiles][4] = {};
  const __half* q = queries + (head0 + lane % 16) * T::kPitch + lane / 16 * 8;
#pragma unroll 4
  for (int d = 0; d < kDim; d += 32) {
    std::uint32_t a0[4], a1[4];
    load_matrices(a0, q + d);
    load_matrices(a1, q + d + 16);
#pragma unroll
    for (int k = 0; k < kKeyTiles; ++k) {
      std::uint32_t b[4];
      load_matrices(b, keys + (key0 + 8 * k + lane % 8) * T::kPitch + d + lane / 8 * 8);
      multiply_add(acc[k], a0, b[0], b[1]);
      multiply_add(acc[k], a1, b[2], b[3]);
    }
  }
#pragma unroll
  for (int k = 0; k < kKeyTiles; ++k)
#pragma unroll
    for (int c = 0; c < 4; ++c)
      scores[(head0 + lane / 4 + 8 * (c / 2)) * T::kScorePitch + key0 + 8 * k + lane % 4 * 2 +
             c % 2] = acc[k][c];
}

/// Scores of `count` keys become weights, by a warp for one head. Scores and weights are kKeyPart
/// each; weights are sums' shares before anything is divided, 1 at the top.
struct PartSums {
  float top, sum;
};
__device__ __forceinline__ PartSums weigh(const float* scores, std::uint32_t count, float scale,
                                          __half* weights) {
  const std::uint32_t lane = threadIdx.x % kWarp;
  const bool has0 = lane < count, has1 = lane + kWarp < count;
  const float s0 = has0 ? scores[lane] * scale : -3.4e38f;
  const float s1 = has1 ? scores[lane + kWarp] * scale : -3.4e38f;
  const float top = warp_max(fmaxf(s0, s1));
  const __half w0 = __float2half_rn(has0 ? expf(s0 - top) : 0.0f);
  const __half w1 = __float2half_rn(has1 ? expf(s1 - top) : 0.0f);
  weights[lane] = w0;
  weights[lane + kWarp] = w1;
  return {top, warp_sum(__half2float(w0) + __half2float(w1))};
}

/// Parts join one after the other, from the learned sink on (whose sum is 1): what there was counts
/// `keep` times, and what the part has `add` times.
struct Join {
  float top, sum, keep, add;

  __device__ __forceinline__ Join(float old_top, float old_sum, const PartSums& part)
      : top(fmaxf(old_top, part.top)), keep(expf(old_top - top)), add(expf(part.top - top)) {
    sum = __fmaf_rn(old_sum, keep, __fmul_rn(part.sum, add));
  }
  __device__ __forceinline__ static float value(float before, float keep, float of_part,
                                                float add) {
    return __fmaf_rn(before, keep, __fmul_rn(of_part, add));
  }
};

/// Those of a segment's raw rows that later calls can still see.
__device__ inline void remember(const AttentionArgs& args, std::uint32_t row) {
  const RowEntry entry = args.rows[row];
  const SegmentEntry segment = args.segments[entry.segment];
  const CacheLayer at = reinterpret_cast<const CacheLayer*>(segment.cache)[args.at.layer];
  if (segment.first_row + segment.count - row > at.ring_rows) return;
  const std::uint32_t dim = args.sizes.head_dim;
  auto* to = reinterpret_cast<__half*>(segment.cache + at.raw) +
             std::size_t{entry.position % at.ring_rows} * dim;
  const __half* from = args.at.kv + std::size_t{row} * dim;
  for (std::uint32_t i = 4 * threadIdx.x; i < dim; i += 4 * blockDim.x)
    *reinterpret_cast<uint2*>(to + i) = *reinterpret_cast<const uint2*>(from + i);
}

inline constexpr std::uint32_t kJoinValues = 8;  // of a lane
/// By a whole warp, whose lanes have 8 neighbouring columns each of 256 in `row`: a finished sum of
/// values over the sum of their weights; then the inverse rotary positions; and out. Lanes at or
/// behind the row's end have zeros.
__device__ __forceinline__ void finish_columns(const AttentionArgs& args, std::uint32_t row,
                                               std::uint32_t column, float sum,
                                               float (&acc)[kJoinValues]) {
  const Sizes& sizes = args.sizes;
  const std::uint32_t dim = sizes.head_dim, width = sizes.n_head * dim;
  if (column < width) {
#pragma unroll
    for (std::uint32_t i = 0; i < kJoinValues; ++i) acc[i] /= sum;
    const std::uint32_t d = column % dim, coded = dim - sizes.rope_dim;
    if (d >= coded) {
      const float* angles = args.angles +
                            (std::size_t{row} * 4 + (args.at.ratio == 0 ? 0 : 1)) * sizes.rope_dim +
                            (d - coded);
#pragma unroll
      for (std::uint32_t i = 0; i < kJoinValues; i += 2)
        turn(acc[i], acc[i + 1], angles[i], -angles[i + 1]);
    }
  }
  if (args.at.out == nullptr) return quantise8(acc, args.at.integers, row, column, width);
  if (column >= width) return;
  std::uint32_t pairs[kJoinValues / 2];
#pragma unroll
  for (std::uint32_t i = 0; i < kJoinValues / 2; ++i)
    pairs[i] = bits(__floats2half2_rn(acc[2 * i], acc[2 * i + 1]));
  *reinterpret_cast<uint4*>(args.at.out + std::size_t{row} * width + column) =
      make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

/// wide_attention.cu: in one kernel, of which every row needs a processor to itself. The last pass
/// of a call remembers its raw rows.
void attend_at_once(Launcher& launcher, const AttentionArgs& args, std::uint32_t rows_of_call);

}  // namespace ds4::cuda
