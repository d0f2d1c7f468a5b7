// Entering a block with many rows. Eight of them share a block of four warps, because what binds a
// row by itself is reading the hyper-connection's weights: here a warp takes six outputs of all the
// rows at once, a value of the weights being used for eight rows and one of the streams for six
// outputs. Streams are copied to shared memory while what is pending arrives, spread where they
// lie, and stay there until the exchange says how they are mixed: device memory is read and written
// once. entering.cuh has the order of sums.
#include "engine/cuda/kernels/entering.cuh"

namespace ds4::cuda {
namespace {

namespace cg = cooperative_groups;

constexpr unsigned kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kOutputsOfWarp = kMixOutputs / kWarps;
constexpr int kSums = kMixOutputs + kPairs;
constexpr std::uint32_t kMostUsed = 16;  // experts of a row

/// The sums over a warp of each of kCount values, like warp_sum(), but a lane is left with
/// left_of() of them: returned is the number of its first. (Halves of the values change lanes, half
/// as many at each step.)
template <int kCount, int kStep = kWarp / 2>
__host__ __device__ constexpr int left_of() {
  if constexpr (kStep == 0)
    return kCount;
  else
    return left_of < kCount % 2 == 0 ? kCount / 2 : kCount, kStep / 2 > ();
}
template <int kCount, int kStep = kWarp / 2, int kAll>
__device__ __forceinline__ unsigned warp_sums(float (&v)[kAll]) {
  if constexpr (kStep == 0) {
    return 0;
  } else if constexpr (kCount % 2 != 0) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] += __shfl_xor_sync(kFullWarp, v[i], kStep);
    return warp_sums<kCount, kStep / 2>(v);
  } else {
    constexpr int kHalf = kCount / 2;
    const bool upper = (threadIdx.x & kStep) != 0;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const float give = upper ? v[i] : v[i + kHalf], keep = upper ? v[i + kHalf] : v[i];
      v[i] = keep + __shfl_xor_sync(kFullWarp, give, kStep);
    }
    return (upper ? kHalf : 0) + warp_sums<kHalf, kStep / 2>(v);
  }
}

template <int kRows>
struct RowsShared {
  float mix[kRows * kMixKept];
  std::uint32_t entry[kRows * kMostUsed];
  float weight[kRows * kMostUsed];
  float partial[kRows][kSums], total[kRows][kSums];
  Mixed mixed[kRows];
};

/// A block's slice of its rows: turns, in each one stream after the other, in each the rows.
template <int kRows>
struct Slice {
  static constexpr std::uint32_t kPitch = kRows * kTurn;  // from a stream to the next

  const EnterArgs& args;
  float* data;
  std::uint32_t per, first_column, first_row, rows;

  __device__ float* turn(std::uint32_t r, std::uint32_t column) const {
    return data + column / kTurn * (kStreamCount * kPitch) + r * kTurn;
  }
  __device__ float* in_memory(std::uint32_t r) const {
    return args.streams + std::size_t{first_row + r} * kStreamCount * args.sizes.n_embd +
           first_column;
  }

  /// By the warp that spreads the row.
  __device__ void start_copy(std::uint32_t r) const {
    const float* from = in_memory(r);
    for (std::uint32_t at = 4 * (threadIdx.x % kWarp); at < per; at += 4 * kWarp) {
      float* to = turn(r, at) + place(at);
#pragma unroll
      for (std::uint32_t d = 0; d < kStreamCount; ++d)
        copy16_async(to + d * kPitch, from + std::size_t{d} * args.sizes.n_embd + at);
    }
  }

  /// Two pieces of each lane at a time.
  __device__ void spread_row(std::uint32_t r, const float* mix, const std::uint32_t* entry,
                             const float* weight) const {
    float* to = in_memory(r);
    float m[kMixKept];
#pragma unroll
    for (std::uint32_t i = 0; i < kMixKept; ++i) m[i] = mix[i];
#pragma unroll 1
    for (std::uint32_t first = 4 * (threadIdx.x % kWarp); first < per; first += kTurn) {
      float y[2][4];
#pragma unroll
      for (int j = 0; j < 2; ++j)
        pending_values(args.pending, args.sizes, first_row + r, args.n,
                       first_column + first + j * (kTurn / 2), entry, weight, y[j]);
      wait_copies<0>();
      __syncwarp();
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const std::uint32_t at = first + j * (kTurn / 2);
        float* s = turn(r, at) + place(at);
        float4 v[kStreamCount];
#pragma unroll
        for (int d = 0; d < kStreamCount; ++d)
          v[d] = *reinterpret_cast<const float4*>(s + d * kPitch);
        spread_column(v, &float4::x, m, y[j][0]), spread_column(v, &float4::y, m, y[j][1]);
        spread_column(v, &float4::z, m, y[j][2]), spread_column(v, &float4::w, m, y[j][3]);
#pragma unroll
        for (std::uint32_t d = 0; d < kStreamCount; ++d) {
          *reinterpret_cast<float4*>(s + d * kPitch) = v[d];
          __stcg(reinterpret_cast<float4*>(to + std::size_t{d} * args.sizes.n_embd + at), v[d]);
        }
      }
    }
  }

  /// Sums of the row's pairs, to `sums` [kPairs].
  __device__ void sum_pairs(std::uint32_t r, float* sums) const {
    float pairs[16] = {};
#pragma unroll 1
    for (std::uint32_t first = 0; first < per; first += kTurn) {
      float s[kStreamCount][8];
#pragma unroll
      for (int d = 0; d < kStreamCount; ++d) load_lane(turn(r, first) + d * kPitch, s[d]);
      int pair = 0;
#pragma unroll
      for (int a = 0; a < kStreamCount; ++a)
#pragma unroll
        for (int b = a; b < kStreamCount; ++b, ++pair)
#pragma unroll
          for (int k = 0; k < 8; ++k) pairs[pair] = __fmaf_rn(s[a][k], s[b][k], pairs[pair]);
    }
    const unsigned which = warp_sums<16>(pairs);
    if (which < kPairs) sums[which] = pairs[0];
  }

 private:
  __device__ __forceinline__ static void spread_column(float4 (&v)[kStreamCount],
                                                       float float4::*column, const float* mix,
                                                       float y) {
    float s[kStreamCount];
#pragma unroll
    for (int d = 0; d < kStreamCount; ++d) s[d] = v[d].*column;
    spread(s, mix, y);
#pragma unroll
    for (int d = 0; d < kStreamCount; ++d) v[d].*column = s[d];
  }
};

/// A warp's six outputs of all rows. Weights of a step, eight columns of one stream, come while the
/// step before is multiplied.
template <int kRows>
class Outputs {
 public:
  __device__ Outputs(const Slice<kRows>& slice, unsigned warp)
      : slice_(slice),
        fn_(static_cast<const __half*>(slice.args.fn) + slice.first_column +
            std::size_t{warp} * kOutputsOfWarp * kStreamCount * slice.args.sizes.n_embd +
            8 * (threadIdx.x % kWarp)) {
    load(0, even_);
  }
  /// Steps are a multiple of four.
  __device__ __forceinline__ void multiply() {
    const std::uint32_t steps = slice_.per / kTurn * kStreamCount;
#pragma unroll 1
    for (std::uint32_t step = 0; step < steps; step += 2) {
      load(step + 1, odd_);
      multiply(step, even_);
      if (step + 2 < steps) load(step + 2, even_);
      multiply(step + 1, odd_);
    }
  }
  /// To sums [kRows][kSums].
  __device__ __forceinline__ void store(unsigned warp, float (*sums)[kSums]) {
    constexpr int kCount = kOutputsOfWarp * kRows;
    const unsigned first = warp_sums<kCount>(dots_);
#pragma unroll
    for (int i = 0; i < left_of<kCount>(); ++i)
      sums[(first + i) % kRows][warp * kOutputsOfWarp + (first + i) / kRows] = dots_[i];
  }

 private:
  using Weights = uint4[kOutputsOfWarp];

  __device__ __forceinline__ void load(std::uint32_t step, Weights& to) const {
    const std::size_t width = slice_.args.sizes.n_embd;
    const __half* from = fn_ + step % kStreamCount * width + step / kStreamCount * kTurn;
#pragma unroll
    for (int o = 0; o < kOutputsOfWarp; ++o)
      to[o] = __ldg(reinterpret_cast<const uint4*>(from + o * kStreamCount * width));
  }
  __device__ __forceinline__ void multiply(std::uint32_t step, const Weights& weights) {
    const std::uint32_t lane = threadIdx.x % kWarp;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 f[kOutputsOfWarp][2];
#pragma unroll
      for (int o = 0; o < kOutputsOfWarp; ++o) {
        f[o][0] = __half22float2(as_half2(half == 0 ? weights[o].x : weights[o].z));
        f[o][1] = __half22float2(as_half2(half == 0 ? weights[o].y : weights[o].w));
      }
      const float* piece =
          slice_.data + step * Slice<kRows>::kPitch + half * (kTurn / 2) + 4 * (lane ^ 4 * half);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float4 v = *reinterpret_cast<const float4*>(piece + r * kTurn);
#pragma unroll
        for (int o = 0; o < kOutputsOfWarp; ++o) {
          float& dot = dots_[o * kRows + r];
          dot = __fmaf_rn(v.x, f[o][0].x, dot);
          dot = __fmaf_rn(v.y, f[o][0].y, dot);
          dot = __fmaf_rn(v.z, f[o][1].x, dot);
          dot = __fmaf_rn(v.w, f[o][1].y, dot);
        }
      }
    }
  }

  const Slice<kRows>& slice_;
  const __half* fn_;
  Weights even_, odd_;
  float dots_[kOutputsOfWarp * kRows] = {};
};

template <int kRows>
__global__ void __launch_bounds__(kThreads, 3)
    wide_enter_kernel(const __grid_constant__ EnterArgs args) {
  extern __shared__ __align__(16) float data[];
  __shared__ RowsShared<kRows> shared;
  const cg::cluster_group cluster = cg::this_cluster();
  const unsigned rank = cluster.block_rank(), slices = cluster.num_blocks();
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::uint32_t per = args.sizes.n_embd / slices;
  const std::uint32_t first_row = blockIdx.x / slices * kRows;
  const Slice<kRows> slice{args, data, per, rank * per, first_row, min(args.n - first_row, kRows)};
  let_successor_start();
  wait_for_predecessor();

  for (std::uint32_t r = warp; r < slice.rows; r += kWarps) slice.start_copy(r);
  commit_copies();
  const bool pending = args.pending.y != nullptr || args.pending.down != nullptr;
  const std::uint32_t used = args.pending.down != nullptr ? args.sizes.n_expert_used : 0;
  for (std::uint32_t i = threadIdx.x; pending && i < slice.rows * kMixKept; i += kThreads)
    shared.mix[i] = args.mix[std::size_t{first_row} * kMixKept + i];
  for (std::uint32_t i = threadIdx.x; i < slice.rows * used; i += kThreads) {
    shared.entry[i] = args.pending.row_entry[std::size_t{first_row} * used + i];
    shared.weight[i] = args.pending.row_weight[std::size_t{first_row} * used + i];
  }
  __syncthreads();
  for (std::uint32_t r = warp; r < slice.rows; r += kWarps) {
    if (pending)
      slice.spread_row(r, shared.mix + r * kMixKept, shared.entry + r * used,
                       shared.weight + r * used);
    wait_copies<0>();
    __syncwarp();
    slice.sum_pairs(r, shared.partial[r] + kMixOutputs);
  }

  Outputs<kRows> outputs(slice, warp);
  __syncthreads();
  outputs.multiply();
  outputs.store(warp, shared.partial);
  cluster.sync();
  add_slices<kRows * kSums>(cluster, shared.partial[0], shared.total[0]);
  __syncthreads();
  auto token = cluster.barrier_arrive();  // nobody leaves while its sums may be read
  if (threadIdx.x < slice.rows)
    shared.mixed[threadIdx.x] = Mixed::of<kMixOutputs>(args, shared.total[threadIdx.x]);
  __syncthreads();

  for (unsigned i = threadIdx.x; rank == 0 && i < slice.rows * kMixOutputs; i += kThreads) {
    const unsigned r = i / kMixOutputs;
    shared.mixed[r].store_logit(args, shared.total[r], first_row + r, i % kMixOutputs);
  }
  const std::uint32_t turns = per / kTurn;
  for (std::uint32_t i = warp; i < slice.rows * turns; i += kWarps) {
    const std::uint32_t r = i / turns, first = i % turns * kTurn;
    write_input(args, shared.mixed[r], slice.turn(r, first), slice.kPitch, first_row + r,
                slice.first_column + first + 8 * lane);
  }
  cluster.barrier_wait(std::move(token));
}

/// False if the rows have no room.
template <int kRows>
bool run(Launcher& launcher, const EnterArgs& args, unsigned slices) {
  const std::size_t bytes = sizeof(float) * kRows * kStreamCount * (args.sizes.n_embd / slices);
  if (!fits_shared(bytes + sizeof(RowsShared<kRows>))) return false;
  launch(launcher, wide_enter_kernel<kRows>, dim3((args.n + kRows - 1) / kRows * slices), kThreads,
         bytes, slices, args);
  return true;
}

}  // namespace

bool enter_wide(Launcher& launcher, const EnterArgs& args) {
  const unsigned slices = slices_of(args.sizes.n_embd);
  if (args.sizes.n_embd / slices % kTurn != 0 || args.wanted != nullptr) return false;
  if (args.pending.down != nullptr && args.sizes.n_expert_used > kMostUsed) return false;
  return run<8>(launcher, args, slices) || run<4>(launcher, args, slices);
}

}  // namespace ds4::cuda
