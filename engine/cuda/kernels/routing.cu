// Routing: every row's experts and their weights, and then the rows of every expert.
#include "engine/cuda/kernels/mixing.cuh"

namespace ds4::cuda {
namespace {

constexpr unsigned kThreads = 1024, kWarps = kThreads / kWarp;
constexpr std::uint32_t kMostExperts = 512;

struct RouteArgs {
  Sizes sizes;
  const float* logits;
  const float* bias;
  const std::int32_t* token_experts;
  const RowEntry* rows;
  std::uint32_t n, choosing_blocks;
  std::uint32_t* row_expert;
  Groups groups;
  MixArgs mix;
};

__device__ __forceinline__ float softplus(float x) {
  return x > 20.0f ? x : log1pf(expf(x));
}

/// A row's experts, by a warp. `p` has room for one float per expert. Loops are not unrolled: each
/// runs a few times, and code that is run once costs more to fetch than to run.
__device__ void choose(const RouteArgs& args, std::uint32_t row, float* p) {
  const std::uint32_t n = args.sizes.n_expert, used = args.sizes.n_expert_used;
  const std::uint32_t lane = threadIdx.x % kWarp;
#pragma unroll 1
  for (std::uint32_t e = lane; e < n; e += kWarp)
    p[e] = sqrtf(softplus(args.logits[std::size_t{row} * n + e]));
  __syncwarp();
  std::uint32_t* chosen = args.row_expert + std::size_t{row} * used;
  std::uint32_t taken = 0;  // bit i: expert 32 i + lane
  float my_p = 0, sum = 0;  // lane `slot` keeps its expert's p
#pragma unroll 1
  for (std::uint32_t slot = 0; slot < used; ++slot) {
    std::uint32_t best = n;
    if (args.token_experts != nullptr) {
      best = static_cast<std::uint32_t>(
          args.token_experts[static_cast<std::size_t>(args.rows[row].token) * used + slot]);
    } else {
      float top = -INFINITY;
#pragma unroll 1
      for (std::uint32_t e = lane; e < n; e += kWarp) {
        const float score = args.bias != nullptr ? p[e] + args.bias[e] : p[e];
        if ((taken >> e / kWarp & 1) == 0 && score > top) top = score, best = e;
      }
#pragma unroll
      for (int step = 16; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(kFullWarp, top, step);
        const std::uint32_t its = __shfl_xor_sync(kFullWarp, best, step);
        if (other > top || (other == top && its < best)) top = other, best = its;
      }
      if (best >= n) best = slot;  // nothing but what is no number: any expert, but a valid one
      if (best % kWarp == lane) taken |= 1u << best / kWarp;
    }
    const float value = p[best];
    if (lane == slot) my_p = value, chosen[slot] = best;
    sum += value;
  }
  sum = fmaxf(sum, 1e-20f);
  if (lane < used)
    args.groups.row_weight[std::size_t{row} * used + lane] =
        my_p / sum * args.sizes.expert_weights_scale;
}

/// f(pair, its expert) for all pairs, kAhead of a thread's experts being loaded at once.
template <int kAhead, typename F>
__device__ __forceinline__ void each_pair(const RouteArgs& args, const F& f) {
  const std::uint32_t pairs = args.n * args.sizes.n_expert_used;
  for (std::uint32_t first = threadIdx.x; first < pairs; first += kAhead * kThreads) {
    std::uint32_t expert[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (first + k * kThreads < pairs) expert[k] = args.row_expert[first + k * kThreads];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (first + k * kThreads < pairs) f(first + k * kThreads, expert[k]);
  }
}

/// Sorts the (row, slot) pairs by expert, counting. One block.
template <int kAhead>
__device__ void group(const RouteArgs& args) {
  __shared__ std::uint32_t next[kMostExperts];  // counts, then the next entry
  for (std::uint32_t e = threadIdx.x; e < kMostExperts; e += kThreads) next[e] = 0;
  __syncthreads();
  each_pair<kAhead>(args,
                    [](std::uint32_t, std::uint32_t expert) { atomicAdd(&next[expert], 1u); });
  __syncthreads();
  if (threadIdx.x < kWarp) {
    constexpr int kEach = kMostExperts / kWarp;
    const std::uint32_t first = threadIdx.x * kEach;
    std::uint32_t entries = 0, groups = 0;
    for (int i = 0; i < kEach; ++i) entries += next[first + i], groups += next[first + i] != 0;
    std::uint32_t entries_upto = entries, groups_upto = groups;
    for (int step = 1; step < kWarp; step *= 2) {
      const std::uint32_t e = __shfl_up_sync(kFullWarp, entries_upto, step);
      const std::uint32_t g = __shfl_up_sync(kFullWarp, groups_upto, step);
      if (static_cast<int>(threadIdx.x) >= step) entries_upto += e, groups_upto += g;
    }
    std::uint32_t entry = entries_upto - entries, g = groups_upto - groups;
    for (int i = 0; i < kEach; ++i) {
      const std::uint32_t count = next[first + i];
      next[first + i] = entry;
      if (count == 0) continue;
      args.groups.expert[g] = first + i;
      args.groups.begin[g] = entry;
      entry += count;
      ++g;
    }
    if (threadIdx.x == kWarp - 1) {
      *args.groups.count = groups_upto;
      args.groups.begin[groups_upto] = entries_upto;
    }
  }
  __syncthreads();
  each_pair<kAhead>(args, [&](std::uint32_t pair, std::uint32_t expert) {
    const std::uint32_t entry = atomicAdd(&next[expert], 1u);
    args.groups.row_entry[pair] = entry;
    args.groups.entry_row[entry] = pair / args.sizes.n_expert_used;
  });
}

/// Blocks that choose, 32 rows each, and then blocks that finish mixings. A single choosing block
/// groups as well.
__global__ void __launch_bounds__(kThreads) route_kernel(const __grid_constant__ RouteArgs args) {
  let_successor_start();
  wait_for_predecessor();
  if (blockIdx.x >= args.choosing_blocks) {
    const std::uint32_t row = (blockIdx.x - args.choosing_blocks) * kThreads + threadIdx.x;
    if (row < args.n) finish_mix(args.mix, args.sizes, row);
    return;
  }
  const std::uint32_t row = blockIdx.x * kWarps + threadIdx.x / kWarp;
  extern __shared__ float shared[];  // [warps][experts]
  if (row < args.n) choose(args, row, shared + threadIdx.x / kWarp * args.sizes.n_expert);
  if (args.choosing_blocks > 1) return;
  __syncthreads();
  group<1>(args);
}

__global__ void __launch_bounds__(kThreads) group_kernel(const __grid_constant__ RouteArgs args) {
  let_successor_start();
  wait_for_predecessor();
  group<8>(args);
}

}  // namespace

void route(Launcher& launcher, const Sizes& sizes, const float* logits, const float* bias,
           const std::int32_t* token_experts, const RowEntry* rows, std::uint32_t n,
           std::uint32_t* row_expert, const Groups& groups, const MixArgs& mix) {
  const std::uint32_t choosing = (n + kWarps - 1) / kWarps;
  const RouteArgs args{sizes, logits,   bias,       token_experts, rows,
                       n,     choosing, row_expert, groups,        mix};
  launch(launcher, route_kernel, dim3(choosing + (n + kThreads - 1) / kThreads), kThreads,
         sizeof(float) * kWarps * sizes.n_expert, 1, args);
  if (choosing > 1) launch(launcher, group_kernel, dim3(1), kThreads, 0, 1, args);
}

}  // namespace ds4::cuda
