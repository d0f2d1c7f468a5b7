// The indexer: which compressed rows a row sees, where there are more than it may see.
//
// Scores are products of halves, which FP4 values are, summed head by head in one order. The best
// are found by their bits, eight at a time from the top: that needs no sorting, and ties go to the
// lower index by construction.
#include "engine/cuda/kernels/attention.cuh"

namespace ds4::cuda {
namespace {

constexpr std::uint32_t kKeys = 64, kHeads = 64;  // of a tile
using T = Tile<kHeads, kIndexDim>;

struct ScoreTile {
  __half queries[kHeads * T::kPitch];
  __half keys[kKeys * T::kPitch];
  float dots[kHeads * T::kScorePitch];
  float sums[kAttendThreads];
};

struct SearchArgs {
  Sizes sizes;
  std::uint32_t layer, ratio;
  const RowEntry* rows;
  const SegmentEntry* segments;
  std::uint32_t first_row, most_visible;
  const float* q;
  const float* w;
  float* scores;  // [rows of the pass][most_visible]
  std::uint32_t* chosen;
  std::uint32_t tiles;  // of keys, of a block
};

/// Block (x, y): tiles of 64 keys of row y, from tile `tiles` * x on. Four threads a key share the
/// heads between them.
__global__ void __launch_bounds__(kAttendThreads)
    score_kernel(const __grid_constant__ SearchArgs args) {
  extern __shared__ __align__(128) std::uint8_t base[];
  auto& tile = *reinterpret_cast<ScoreTile*>(base);
  let_successor_start();
  wait_for_predecessor();
  const std::uint32_t row = args.first_row + blockIdx.y;
  const RowEntry entry = args.rows[row];
  const std::uint32_t visible = (entry.position + 1) / args.ratio;
  const std::uint32_t begin = blockIdx.x * args.tiles * kKeys;
  const std::uint32_t end = min(visible, begin + args.tiles * kKeys);
  if (visible <= args.sizes.top_k || begin >= visible) return;
  const std::byte* cache = args.segments[entry.segment].cache;
  const auto* index = reinterpret_cast<const __half*>(
      cache + reinterpret_cast<const CacheLayer*>(cache)[args.layer].index);
  const std::uint32_t heads = args.sizes.index_heads;
  const float* q = args.q + std::size_t{row} * heads * kIndexDim;
  const float* w = args.w + std::size_t{row} * heads;
  constexpr std::uint32_t kPieces = kIndexDim / 8, kShare = kAttendThreads / kKeys;
  const std::uint32_t my_key = threadIdx.x % kKeys,
                      my_head = threadIdx.x / kKeys * (kHeads / kShare);
  const bool one_tile_of_heads = heads <= kHeads;
  for (std::uint32_t first = begin; first < end; first += kKeys) {
    __syncthreads();  // the tile before is done with
    for (std::uint32_t i = threadIdx.x; i < kKeys * kPieces; i += kAttendThreads) {
      const std::uint32_t key = i / kPieces, at = i % kPieces * 8;
      uint4 v = make_uint4(0, 0, 0, 0);
      if (first + key < visible)
        v = *reinterpret_cast<const uint4*>(index + std::size_t{first + key} * kIndexDim + at);
      *reinterpret_cast<uint4*>(tile.keys + key * T::kPitch + at) = v;
    }
    float sum = 0;
    for (std::uint32_t head0 = 0; head0 < heads; head0 += kHeads) {
      if (!one_tile_of_heads) __syncthreads();
      if (!one_tile_of_heads || first == begin) {
        for (std::uint32_t i = threadIdx.x; i < kHeads * kIndexDim / 4; i += kAttendThreads) {
          const std::uint32_t head = i / (kIndexDim / 4), at = i % (kIndexDim / 4) * 4;
          float4 v = make_float4(0, 0, 0, 0);
          if (head0 + head < heads)
            v = *reinterpret_cast<const float4*>(q + std::size_t{head0 + head} * kIndexDim + at);
          *reinterpret_cast<uint2*>(tile.queries + head * T::kPitch + at) =
              make_uint2(bits(__floats2half2_rn(v.x, v.y)), bits(__floats2half2_rn(v.z, v.w)));
        }
      }
      __syncthreads();
      score<kHeads, kIndexDim>(tile.queries, tile.keys, tile.dots);
      __syncthreads();
#pragma unroll 4
      for (std::uint32_t h = my_head; h < my_head + kHeads / kShare; ++h) {
        const float weight = head0 + h < heads ? w[head0 + h] : 0.0f;
        sum = __fmaf_rn(fmaxf(tile.dots[h * T::kScorePitch + my_key], 0.0f), weight, sum);
      }
    }
    tile.sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= kKeys || first + threadIdx.x >= visible) continue;
    float total = 0;
    for (std::uint32_t i = 0; i < kShare; ++i)
      total = __fadd_rn(total, tile.sums[i * kKeys + threadIdx.x]);
    args.scores[std::size_t{blockIdx.y} * args.most_visible + first + threadIdx.x] = total;
  }
}

// ---------------------------------------------------------------------------------------------

constexpr unsigned kBestThreads = 1024, kBestWarps = kBestThreads / kWarp;

/// Ascending as the scores are; what is no number comes last.
__device__ __forceinline__ std::uint32_t order_of(float score) {
  const std::uint32_t b = __float_as_uint(score);
  if ((b & 0x7FFFFFFFu) > 0x7F800000u) return 0;
  return (b & 0x80000000u) != 0 ? ~b : b | 0x80000000u;
}

/// The order value of the k-th best, and how many of its equals are among the k.
struct Bar {
  std::uint32_t order, equals;
};

__device__ Bar find_bar(const float* scores, std::uint32_t n, std::uint32_t k) {
  __shared__ std::uint32_t counts[256];
  __shared__ Bar bar;
  std::uint32_t known = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) counts[threadIdx.x] = 0;
    __syncthreads();
    for (std::uint32_t i = threadIdx.x; i < n; i += kBestThreads) {
      const std::uint32_t order = order_of(scores[i]);
      if (shift == 24 || order >> (shift + 8) == known >> (shift + 8))
        atomicAdd(&counts[order >> shift & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x < kWarp) {
      // Lane l has digits 255 - 8l downwards: the best first.
      const int top = 255 - 8 * static_cast<int>(threadIdx.x);
      std::uint32_t mine = 0;
      for (int i = 0; i < 8; ++i) mine += counts[top - i];
      std::uint32_t upto = mine;
      for (int step = 1; step < kWarp; step *= 2) {
        const std::uint32_t other = __shfl_up_sync(kFullWarp, upto, step);
        if (static_cast<int>(threadIdx.x) >= step) upto += other;
      }
      std::uint32_t before = upto - mine;
      if (before < k && k <= upto) {
        int digit = top;
        while (before + counts[digit] < k) before += counts[digit--];
        bar = {known | static_cast<std::uint32_t>(digit) << shift, k - before};
      }
    }
    __syncthreads();
    known = bar.order;
    k = bar.equals;
    __syncthreads();
  }
  return {known, k};
}

/// Block: a row. Writes the indices of its best, ascending.
__global__ void __launch_bounds__(kBestThreads)
    best_kernel(const __grid_constant__ SearchArgs args) {
  __shared__ std::uint32_t above_of[kBestWarps], equal_of[kBestWarps];
  let_successor_start();
  wait_for_predecessor();
  const std::uint32_t row = args.first_row + blockIdx.x;
  const std::uint32_t visible = (args.rows[row].position + 1) / args.ratio;
  if (visible <= args.sizes.top_k) return;
  const float* scores = args.scores + std::size_t{blockIdx.x} * args.most_visible;
  const Bar bar = find_bar(scores, visible, args.sizes.top_k);
  std::uint32_t* chosen = args.chosen + std::size_t{row} * args.sizes.top_k;
  const std::uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const std::uint32_t before_me = (1u << lane) - 1;
  std::uint32_t above = 0, equal = 0;  // so far
  for (std::uint32_t begin = 0; begin < visible; begin += kBestThreads) {
    const std::uint32_t i = begin + threadIdx.x;
    const std::uint32_t order = i < visible ? order_of(scores[i]) : 0;
    const bool is_above = i < visible && order > bar.order;
    const bool is_equal = i < visible && order == bar.order;
    const std::uint32_t above_votes = __ballot_sync(kFullWarp, is_above);
    const std::uint32_t equal_votes = __ballot_sync(kFullWarp, is_equal);
    if (lane == 0) above_of[warp] = __popc(above_votes), equal_of[warp] = __popc(equal_votes);
    __syncthreads();
    std::uint32_t my_above = above, my_equal = equal;
    for (std::uint32_t w = 0; w < kBestWarps; ++w) {
      const std::uint32_t a = above_of[w], e = equal_of[w];
      if (w < warp) my_above += a, my_equal += e;
      above += a, equal += e;
    }
    my_above += __popc(above_votes & before_me);
    my_equal += __popc(equal_votes & before_me);
    if (is_above || (is_equal && my_equal < bar.equals))
      chosen[my_above + min(my_equal, bar.equals)] = i;
    __syncthreads();
  }
}

}  // namespace

void search_index(Launcher& launcher, const Sizes& sizes, std::uint32_t layer, std::uint32_t ratio,
                  const RowEntry* rows, const SegmentEntry* segments, std::uint32_t first_row,
                  std::uint32_t n, std::uint32_t most_visible, const float* index_q,
                  const float* index_w, float* scores, std::uint32_t* chosen) {
  const SearchArgs args{sizes,        layer,   ratio,   rows,   segments, first_row,
                        most_visible, index_q, index_w, scores, chosen,   n < 32 ? 1u : 8u};
  const std::uint32_t keys = args.tiles * kKeys;  // of a block; few rows need many blocks
  launch(launcher, score_kernel, dim3((most_visible + keys - 1) / keys, n), kAttendThreads,
         sizeof(ScoreTile), 1, args);
  launch(launcher, best_kernel, dim3(n), kBestThreads, 0, 1, args);
}

}  // namespace ds4::cuda
