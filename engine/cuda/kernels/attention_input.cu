// What each row brings to attention: its query, its raw row, its share of the compressed rows.
#include <cfloat>

#include "engine/cuda/kernels/mixing.cuh"
#include "engine/cuda/kernels/quantised.cuh"
#include "engine/cuda/kernels/rounding.cuh"

namespace ds4::cuda {
namespace {

constexpr unsigned kThreads = 512;
constexpr std::uint32_t kMostDim = 1024;

struct InputArgs {
  Sizes sizes;
  AttentionInput in;
  const RowEntry* rows;
  const SegmentEntry* segments;
  const float* angles;
  std::uint32_t n;
};

/// Which of a row's four tables of angles.
enum : std::uint32_t { kPlain = 0, kCompressed = 1, kBlock4 = 2, kBlock128 = 3 };
__device__ __forceinline__ const float* angles_of(const float* angles, const Sizes& sizes,
                                                  std::uint32_t row, std::uint32_t table) {
  return angles + (std::size_t{row} * 4 + table) * sizes.rope_dim;
}

/// Norm, rotary positions and FP8 of a KV row in shared memory, then as halves to `out`.
__device__ void finish_kv_row(float* row, const float* norm, const Sizes& sizes,
                              const float* angles, __half* out, float* scratch) {
  const std::uint32_t dim = sizes.head_dim, coded = dim - sizes.rope_dim;
  float square = 0;
  for (std::uint32_t i = threadIdx.x; i < dim; i += kThreads) square += row[i] * row[i];
  const float mean = block_sum(square, scratch) / static_cast<float>(dim);
  const float scale = 1.0f / sqrtf(mean + sizes.rms_eps);
  for (std::uint32_t i = threadIdx.x; i < dim; i += kThreads) row[i] *= scale * norm[i];
  __syncthreads();
  for (std::uint32_t i = 2 * threadIdx.x; i < sizes.rope_dim; i += 2 * kThreads)
    turn(row[coded + i], row[coded + i + 1], angles[i], angles[i + 1]);
  if (sizes.official) {
    const std::uint32_t lane = threadIdx.x % kWarp;
    for (std::uint32_t block = threadIdx.x / kWarp * 64; block < coded;
         block += kThreads / kWarp * 64) {
      const float a = row[block + lane], b = row[block + lane + 32];
      const float most = warp_max(fmaxf(fabsf(a), fabsf(b)));
      row[block + lane] = round_fp8(a, most);
      row[block + lane + 32] = round_fp8(b, most);
    }
  }
  __syncthreads();
  for (std::uint32_t i = threadIdx.x; i < dim; i += kThreads) out[i] = __float2half_rn(row[i]);
}

/// A softmax-weighted sum that is built up token by token; see engine/model/compressor.h.
struct Sums {
  float max, sum, acc;

  __device__ void clear() { max = -FLT_MAX, sum = 0, acc = 0; }
  __device__ void add(float value, float logit) {
    const float gap = logit - max;
    const float small = expf(-fabsf(gap));
    const float keep = gap > 0.0f ? small : 1.0f;
    const float weight = gap > 0.0f ? 1.0f : small;
    max = fmaxf(logit, max);
    sum = __fmaf_rn(sum, keep, weight);
    acc = __fmaf_rn(acc, keep, __fmul_rn(weight, value));
  }
  __device__ void load(const float* state, std::uint32_t width, std::uint32_t channel) {
    max = state[channel], sum = state[width + channel], acc = state[2 * width + channel];
  }
  __device__ void store(float* state, std::uint32_t width, std::uint32_t channel) const {
    state[channel] = max, state[width + channel] = sum, state[2 * width + channel] = acc;
  }
};

/// One channel of one compressor, for the block that `row` is in, up to that row.
struct Pool {
  const CompressorArgs& args;
  std::uint32_t dim, ratio;
  std::uint32_t position;  // of the row
  const SegmentEntry& segment;
  const float* state;  // before the call
  float* next_state;

  __device__ void add(Sums& sums, std::uint32_t token, std::uint32_t width,
                      std::uint32_t channel) const {
    const std::size_t at =
        std::size_t{segment.first_row + (token - segment.first_position)} * width + channel;
    sums.add(args.kv[at], args.gate[at] + args.ape[token % ratio * width + channel]);
  }

  /// Returns the pooled value; stores the state behind the segment's last row.
  __device__ float run(std::uint32_t channel, bool store) const {
    const std::uint32_t block = position - position % ratio, first = segment.first_position;
    if (ratio != 4) {
      Sums sums;
      sums.clear();
      if (first > block) sums.load(state, dim, channel);
#pragma unroll 4
      for (std::uint32_t t = max(first, block); t <= position; ++t) add(sums, t, dim, channel);
      if (store) sums.store(next_state, dim, channel);
      return sums.acc / sums.sum;
    }
    const std::uint32_t width = 2 * dim;
    Sums ahead, own;  // of this block: first halves, which the next one starts from, and its row
    ahead.clear();
    own.clear();
    if (first > block) {
      ahead.load(state, width, channel);
      own.load(state, width, dim + channel);
    } else if (first == block) {
      if (block != 0) own.load(state, width, channel);
    } else {  // so there is a block before, and some of it is in this call
      if (first > block - ratio) own.load(state, width, channel);
      for (std::uint32_t t = max(first, block - ratio); t < block; ++t) add(own, t, width, channel);
    }
    for (std::uint32_t t = max(first, block); t <= position; ++t) {
      add(ahead, t, width, channel);
      add(own, t, width, dim + channel);
    }
    if (store) {
      ahead.store(next_state, width, channel);
      own.store(next_state, width, dim + channel);
    }
    return own.acc / own.sum;
  }
};

__device__ void finish_qr(const InputArgs& args, float* scratch) {
  const std::uint32_t row = blockIdx.x;
  const Sizes& sizes = args.sizes;
  const float* qr = args.in.qr + std::size_t{row} * sizes.q_rank;
  float square = 0;
  for (std::uint32_t i = threadIdx.x; i < sizes.q_rank; i += kThreads) square += qr[i] * qr[i];
  const float mean = block_sum(square, scratch) / static_cast<float>(sizes.q_rank);
  const float scale = 1.0f / sqrtf(mean + sizes.rms_eps);
  // Whole warps, because these have 256 columns each.
  const std::uint32_t columns = (sizes.q_rank + kSumBlockColumns - 1) / kSumBlockColumns * kWarp;
  for (std::uint32_t i = threadIdx.x; i < columns; i += kThreads) {
    const std::uint32_t column = 8 * i;
    float v[8] = {};
    if (column < sizes.q_rank) {
      std::uint32_t pairs[4];
#pragma unroll
      for (int k = 0; k < 8; ++k) v[k] = qr[column + k] * scale * args.in.q_norm[column + k];
#pragma unroll
      for (int k = 0; k < 4; ++k) pairs[k] = bits(__floats2half2_rn(v[2 * k], v[2 * k + 1]));
      *reinterpret_cast<uint4*>(args.in.qr_out + std::size_t{row} * sizes.q_rank + column) =
          make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
    quantise8(v, args.in.qr_integers, row, column, sizes.q_rank);
  }
}

__device__ void finish_kv(const InputArgs& args, float* values, float* scratch) {
  const std::uint32_t row = blockIdx.x;
  const Sizes& sizes = args.sizes;
  const std::size_t at = std::size_t{row} * sizes.head_dim;
  for (std::uint32_t i = threadIdx.x; i < sizes.head_dim; i += kThreads)
    values[i] = args.in.kv[at + i];
  finish_kv_row(values, args.in.kv_norm, sizes,
                angles_of(args.angles, sizes, row, args.in.ratio == 0 ? kPlain : kCompressed),
                args.in.kv_out + at, scratch);
}

__device__ void pool_row(const InputArgs& args, bool index, float* values, float* scratch) {
  const std::uint32_t row = blockIdx.x, ratio = args.in.ratio;
  if (ratio == 0 || (index && ratio != 4)) return;
  const RowEntry entry = args.rows[row];
  const bool ends = (entry.position + 1) % ratio == 0;
  if (!ends && !entry.last_of_segment) return;
  const Sizes& sizes = args.sizes;
  const SegmentEntry segment = args.segments[entry.segment];
  const CacheLayer at = reinterpret_cast<const CacheLayer*>(segment.cache)[args.in.layer];
  const std::uint32_t dim = index ? sizes.index_dim : sizes.head_dim;
  const std::uint32_t state_floats = 3 * dim * (ratio == 4 ? 2 : 1);
  auto* states = reinterpret_cast<float*>(segment.cache + (index ? at.index_state : at.state));
  const CompressorArgs& compressor = index ? args.in.index : args.in.main;
  const Pool pool{compressor,
                  dim,
                  ratio,
                  entry.position,
                  segment,
                  states + segment.state_slot * state_floats,
                  states + (segment.state_slot ^ 1) * state_floats};
  for (std::uint32_t i = threadIdx.x; i < dim; i += kThreads)
    values[i] = pool.run(i, entry.last_of_segment);
  if (!ends) return;
  __syncthreads();
  const float* angles = angles_of(args.angles, sizes, row, ratio == 4 ? kBlock4 : kBlock128);
  const std::size_t block = entry.position / ratio;
  if (!index) {
    auto* out = reinterpret_cast<__half*>(segment.cache + at.compressed) + block * dim;
    finish_kv_row(values, compressor.norm, sizes, angles, out, scratch);
    return;
  }
  if (threadIdx.x >= kWarp) return;
  float v[4], square = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[i] = values[4 * threadIdx.x + i];
    square += v[i] * v[i];
  }
  const float scale =
      1.0f / sqrtf(warp_sum(square) / static_cast<float>(kIndexDim) + sizes.rms_eps);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] *= scale * compressor.norm[4 * threadIdx.x + i];
  finish_index_row(v, angles, sizes.rope_dim, sizes.official != 0);
  auto* out = reinterpret_cast<__half*>(segment.cache + at.index) + block * kIndexDim;
#pragma unroll
  for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = __float2half_rn(v[i]);
}

__global__ void __launch_bounds__(kThreads)
    finish_input_kernel(const __grid_constant__ InputArgs args) {
  __shared__ float values[kMostDim];
  __shared__ float scratch[33];
  let_successor_start();
  wait_for_predecessor();
  if (blockIdx.y == 0) finish_qr(args, scratch);
  if (blockIdx.y == 1) pool_row(args, false, values, scratch);
  if (blockIdx.y == 2) pool_row(args, true, values, scratch);
  if (blockIdx.y == 3) {
    const std::uint32_t row = blockIdx.x * kThreads + threadIdx.x;
    if (row < args.n) finish_mix(args.in.mix, args.sizes, row);
  }
  if (blockIdx.y == 4) finish_kv(args, values, scratch);
}

// ---------------------------------------------------------------------------------------------

struct QueryArgs {
  Sizes sizes;
  std::uint32_t n, angles_table;
  const float* angles;
  const float* q;
  __half* q_out;
  float* index_q;  // null: no search
  float* index_w;
};
constexpr unsigned kQueryThreads = 256;

/// One warp per head.
__global__ void __launch_bounds__(kQueryThreads)
    finish_queries_kernel(const __grid_constant__ QueryArgs args) {
  let_successor_start();
  wait_for_predecessor();
  const Sizes& sizes = args.sizes;
  const std::uint32_t heads = sizes.n_head + (args.index_q != nullptr ? sizes.index_heads : 0);
  const std::uint32_t item = (blockIdx.x * kQueryThreads + threadIdx.x) / kWarp;
  const std::uint32_t row = item / heads, head = item % heads, lane = threadIdx.x % kWarp;
  if (row >= args.n) return;
  const float* angles = angles_of(args.angles, sizes, row, args.angles_table);
  if (head >= sizes.n_head) {
    const std::size_t at = std::size_t{row} * sizes.index_heads + (head - sizes.n_head);
    float4* q = reinterpret_cast<float4*>(args.index_q + at * kIndexDim) + lane;
    const float4 in = *q;
    float v[4] = {in.x, in.y, in.z, in.w};
    finish_index_row(v, angles, sizes.rope_dim, sizes.official != 0);
    *q = make_float4(v[0], v[1], v[2], v[3]);
    if (lane == 0)
      args.index_w[at] *=
          1.0f / sqrtf(static_cast<float>(sizes.index_heads) * static_cast<float>(sizes.index_dim));
    return;
  }
  const std::uint32_t dim = sizes.head_dim, coded = dim - sizes.rope_dim;
  const std::size_t at = (std::size_t{row} * sizes.n_head + head) * dim;
  float square = 0;
  for (std::uint32_t i = 2 * lane; i < dim; i += 2 * kWarp) {
    const float2 v = *reinterpret_cast<const float2*>(args.q + at + i);
    square += v.x * v.x + v.y * v.y;
  }
  const float scale = 1.0f / sqrtf(warp_sum(square) / static_cast<float>(dim) + sizes.rms_eps);
  for (std::uint32_t i = 2 * lane; i < dim; i += 2 * kWarp) {
    float2 v = *reinterpret_cast<const float2*>(args.q + at + i);
    v.x *= scale, v.y *= scale;
    if (i >= coded) turn(v.x, v.y, angles[i - coded], angles[i - coded + 1]);
    *reinterpret_cast<__half2*>(args.q_out + at + i) = __floats2half2_rn(v.x, v.y);
  }
}

}  // namespace

void finish_input(Launcher& launcher, const Sizes& sizes, const AttentionInput& input,
                  const RowEntry* rows, const SegmentEntry* segments, std::uint32_t n,
                  const float* angles) {
  launch(launcher, finish_input_kernel, dim3(n, 5), kThreads, 0, 1,
         InputArgs{sizes, input, rows, segments, angles, n});
}

void finish_queries(Launcher& launcher, const Sizes& sizes, std::uint32_t ratio, std::uint32_t n,
                    const float* angles, const float* q, __half* q_out, float* index_q,
                    float* index_w) {
  const std::uint32_t heads = sizes.n_head + (index_q != nullptr ? sizes.index_heads : 0);
  launch(
      launcher, finish_queries_kernel,
      dim3((n * heads * kWarp + kQueryThreads - 1) / kQueryThreads), kQueryThreads, 0, 1,
      QueryArgs{sizes, n, ratio == 0 ? kPlain : kCompressed, angles, q, q_out, index_q, index_w});
}

}  // namespace ds4::cuda
