// Sampling: a token from a row of logits, the one that engine/text/sampler.cpp takes.
//
// A row is the work of a cluster of eight blocks. Its ids are dealt to the cluster's warps in
// order, a run of neighbours each, and every step is the same: each warp sums something over its
// ids and tells all others, and then every warp knows the sums of all, hence the total, and in
// whose run a running sum passes a target. Sums are of whole numbers (engine/text/draw.h), so that
// their order does not matter, and a cut is found by bisecting the likelihood, without any sorting.
#include <cooperative_groups.h>

#include "engine/cuda/kernels/common.cuh"

namespace ds4::cuda {
namespace {

namespace cg = cooperative_groups;
using Sum = unsigned long long;

constexpr unsigned kCluster = 8, kThreads = 512, kWarps = kThreads / kWarp;
constexpr unsigned kRuns = kCluster * kWarps;
constexpr int kMostSums = 3;  // of one step
constexpr int kRunsOfLane = kRuns / kWarp;

/// Orders like the floats, with -0 and 0 as one.
__device__ __forceinline__ std::uint32_t key_of(float logit) {
  const std::uint32_t bits = __float_as_uint(__fadd_rn(logit, 0.0f));
  return bits >> 31 != 0 ? ~bits : bits | 1u << 31;
}
__device__ __forceinline__ float logit_of(std::uint32_t key) {
  return __uint_as_float(key >> 31 != 0 ? key & ~(1u << 31) : ~key);
}

template <typename Op>
__device__ __forceinline__ Sum warp_reduce(Sum x, const Op& op) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = op(x, __shfl_xor_sync(kFullWarp, x, step));
  return x;
}
__device__ __forceinline__ Sum add(Sum a, Sum b) {
  return a + b;
}
__device__ __forceinline__ Sum upto_lane(Sum x) {
  const unsigned lane = threadIdx.x % kWarp;
#pragma unroll
  for (unsigned step = 1; step < kWarp; step *= 2) {
    const Sum before = __shfl_up_sync(kFullWarp, x, step);
    if (lane >= step) x += before;
  }
  return x;
}

/// The last token that a cut keeps.
struct Last {
  float logit;
  std::uint32_t id;

  __device__ bool keeps(float other, std::uint32_t other_id) const {
    return !more_likely(logit, id, other, other_id);
  }
};

/// A row, seen by one of its cluster's warps. All members are called by all warps together, and
/// give the same to all of them.
class Row {
 public:
  using Told = Sum[2][kMostSums][kRuns];

  __device__ Row(const float* logits, std::uint32_t size, Told& told)
      : logits_(logits), size_(size), told_(told), lane_(threadIdx.x % kWarp) {
    run_ = cluster_.block_rank() * kWarps + threadIdx.x / kWarp;
    const std::uint32_t each = ((size + kRuns - 1) / kRuns + kWarp - 1) / kWarp * kWarp;
    first_ = min(run_ * each, size);
    end_ = min(first_ + each, size);
    cluster_.sync();  // all blocks have started
  }

  /// The largest finite logit and, of those, the lowest id; id = size if there is none.
  __device__ Last most_likely() {
    Sum best = 0;  // no finite logit has key 0
    for (std::uint32_t id = first_ + lane_; id < end_; id += kWarp) {
      const float logit = logits_[id];
      if (is_finite(logit)) best = max(best, Sum{key_of(logit)} << 32 | ~id);
    }
    const auto most = [](Sum a, Sum b) { return max(a, b); };
    tell(0, warp_reduce(best, most));
    best = combine(0, most);
    if (best == 0) return {0, size_};
    return {logit_of(static_cast<std::uint32_t>(best >> 32)), ~static_cast<std::uint32_t>(best)};
  }

  /// The sum of measure(id, logit) over the finite logits.
  template <typename Measure>
  __device__ Sum sum(const Measure& measure) {
    tell(0, warp_reduce(own(measure), add));
    return combine(0, add);
  }

  /// Where the sum of `measure` over the most likely tokens reaches `wanted`; everything if it
  /// never does.
  template <typename Measure>
  __device__ Last reach(const Measure& measure, Sum wanted) {
    std::uint32_t key = 0;  // tokens from this key on reach it
    Sum above = 0;          // the sum over larger keys than those in question
    for (int shift = 30; shift >= 0; shift -= 2) {
      Sum sums[kMostSums] = {};
      for (std::uint32_t id = first_ + lane_; id < end_; id += kWarp) {
        const float logit = logits_[id];
        const std::uint32_t its = key_of(logit);
        if (!is_finite(logit) || its < key + (1u << shift)) continue;
        const Sum value = measure(id, logit);
#pragma unroll
        for (std::uint32_t i = 0; i < kMostSums; ++i)
          if (its - key >= (i + 1) << shift) sums[i] += value;
      }
#pragma unroll
      for (int i = 0; i < kMostSums; ++i) tell(i, warp_reduce(sums[i], add));
      meet();
      std::uint32_t step = 0;
#pragma unroll
      for (int i = kMostSums - 1; i >= 0; --i) {
        const Sum sum = told_sum(i, add);
        if (step != 0) continue;
        if (sum >= wanted)
          step = i + 1;
        else
          above = sum;
      }
      turn();
      key += step << shift;
    }
    if (key == 0) return {-INFINITY, 0};
    const float logit = logit_of(key);
    return {logit, pass([&](std::uint32_t id,
                            float its) { return its == logit ? measure(id, its) : Sum{0}; },
                        wanted - above - 1)};
  }

  /// The id at which the running sum of `measure` exceeds `target`, which is below the whole sum.
  template <typename Measure>
  __device__ std::uint32_t pass(const Measure& measure, Sum target) {
    tell(0, warp_reduce(own(measure), add));
    meet();
    // Lane i sums up the i-th few runs.
    Sum mine[kRunsOfLane], all = 0;
#pragma unroll
    for (int i = 0; i < kRunsOfLane; ++i) all += mine[i] = told_[turn_][0][lane_ * kRunsOfLane + i];
    Sum before = upto_lane(all) - all;
    std::uint32_t its_run = kRuns;
    Sum before_run = 0;
#pragma unroll
    for (int i = 0; i < kRunsOfLane; ++i) {
      if (before <= target && target < before + mine[i])
        its_run = lane_ * kRunsOfLane + i, before_run = before;
      before += mine[i];
    }
    turn();
    const unsigned found = __ballot_sync(kFullWarp, its_run != kRuns);
    const int finder = __ffs(static_cast<int>(found)) - 1;
    its_run = __shfl_sync(kFullWarp, its_run, finder);
    before_run = __shfl_sync(kFullWarp, before_run, finder);
    tell(0, its_run == run_ ? pass_in_run(measure, target - before_run) : 0);
    return static_cast<std::uint32_t>(combine(0, add));
  }

 private:
  template <typename Measure>
  __device__ Sum own(const Measure& measure) const {
    Sum sum = 0;
    for (std::uint32_t id = first_ + lane_; id < end_; id += kWarp) {
      const float logit = logits_[id];
      if (is_finite(logit)) sum += measure(id, logit);
    }
    return sum;
  }

  template <typename Measure>
  __device__ Sum pass_in_run(const Measure& measure, Sum target) const {
    for (std::uint32_t base = first_; base < end_; base += kWarp) {
      const std::uint32_t id = base + lane_;
      const float logit = id < end_ ? logits_[id] : INFINITY;
      const Sum upto = upto_lane(is_finite(logit) ? measure(id, logit) : 0);
      const unsigned beyond = __ballot_sync(kFullWarp, upto > target);
      if (beyond != 0) return base + __ffs(static_cast<int>(beyond)) - 1;
      target -= __shfl_sync(kFullWarp, upto, kWarp - 1);
    }
    return 0;  // never: the target is in this run
  }

  /// Of this warp, to all blocks: its value number `which` of this step.
  __device__ void tell(int which, Sum value) {
    if (lane_ < kCluster) cluster_.map_shared_rank(&told_[turn_][which][run_], lane_)[0] = value;
  }
  __device__ void meet() {
    cluster_.sync();
  }
  template <typename Op>
  __device__ Sum told_sum(int which, const Op& op) const {
    Sum value = told_[turn_][which][lane_];
#pragma unroll
    for (unsigned run = kWarp; run < kRuns; run += kWarp)
      value = op(value, told_[turn_][which][run + lane_]);
    return warp_reduce(value, op);
  }
  /// The next step writes elsewhere: it may begin while others still read. Whoever writes here
  /// again has met them in between.
  __device__ void turn() {
    turn_ ^= 1;
  }
  template <typename Op>
  __device__ Sum combine(int which, const Op& op) {
    meet();
    const Sum value = told_sum(which, op);
    turn();
    return value;
  }

  const cg::cluster_group cluster_ = cg::this_cluster();
  const float* logits_;
  const std::uint32_t size_;
  Told& told_;
  const unsigned lane_;
  std::uint32_t run_ = 0, first_ = 0, end_ = 0;
  int turn_ = 0;
};

__device__ std::uint32_t choose(Row& row, const Draw& draw, float peak) {
  const auto weight = [&](std::uint32_t, float logit) -> Sum {
    return weight_of(logit, peak, draw.scale);
  };
  Last last{-INFINITY, 0};
  if (draw.top_k != 0) last = row.reach([](std::uint32_t, float) { return Sum{1}; }, draw.top_k);
  if (draw.top_p >> 32 == 0) {
    const auto kept = [&](std::uint32_t id, float logit) {
      return last.keeps(logit, id) ? weight(id, logit) : Sum{0};
    };
    last = row.reach(kept, mass_wanted(row.sum(kept), draw.top_p));
  }
  const auto kept = [&](std::uint32_t id, float logit) -> Sum {
    const Sum its = last.keeps(logit, id) ? weight(id, logit) : Sum{0};
    return its < draw.least_weight ? 0 : its;
  };
  return row.pass(kept, draw_target(row.sum(kept), draw.uniform));
}

__global__ void __launch_bounds__(kThreads)
    sample_kernel(const float* logits, std::uint32_t vocabulary, const Draw* draws, Pick* picks) {
  __shared__ Row::Told told;
  __shared__ Draw draw;
  let_successor_start();
  const std::uint32_t index = blockIdx.x / kCluster;
  if (threadIdx.x == 0) draw = draws[index];  // from the host's memory, meanwhile
  wait_for_predecessor();
  logits += std::size_t{index} * vocabulary;
  Row row(logits, vocabulary, told);
  const Last peak = row.most_likely();
  Pick pick{-1, 0, 0, 0};
  if (peak.id < vocabulary) {
    pick.peak = peak.logit;
    pick.total = row.sum(
        [&](std::uint32_t, float logit) -> Sum { return weight_of(logit, peak.logit, kLog2E); });
    const std::uint32_t token = draw.greedy ? peak.id : choose(row, draw, peak.logit);
    pick.token = static_cast<std::int32_t>(token);
    pick.logit = logits[token];
  }
  if (blockIdx.x % kCluster == 0 && threadIdx.x == 0) picks[index] = pick;
}

}  // namespace

void sample_rows(Launcher& launcher, const float* logits, std::uint32_t vocabulary,
                 const Draw* draws, std::uint32_t n, Pick* picks) {
  launch(launcher, sample_kernel, dim3(n * kCluster), kThreads, 0, kCluster, logits, vocabulary,
         draws, picks);
}

}  // namespace ds4::cuda
