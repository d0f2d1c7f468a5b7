// The four residual streams: filled from the embedding, read and mixed before every block.
//
// A row is the work of a cluster of up to eight blocks, each with its share of the columns of all
// four streams. One exchange through the cluster's shared memory is enough: the norm of the mixed
// row follows from the ten products of the streams with one another, which are summed up together
// with the outputs of the hyper-connection.
#include <cooperative_groups.h>

#include "engine/cuda/kernels/mixing.cuh"
#include "engine/cuda/kernels/quantised.cuh"

namespace ds4::cuda {
namespace {

namespace cg = cooperative_groups;

constexpr unsigned kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kPairs = 10;  // of four streams, each with itself and the others

/// As many blocks as leave each whole groups of the columns whose sums become integers together.
unsigned cluster_of(std::uint32_t width) {
  unsigned blocks = 8;
  while (blocks > 1 && width % (blocks * kSumBlockColumns) != 0) blocks /= 2;
  return blocks;
}

/// Eight weights in a row, as they lie in memory.
template <typename T>
struct Eight;
template <>
struct Eight<__half> {
  uint4 v{};
  __device__ void load(const __half* p) { v = __ldg(reinterpret_cast<const uint4*>(p)); }
  __device__ void values(float (&f)[8]) const {
    const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = __half22float2(as_half2(words[i]));
      f[2 * i] = pair.x, f[2 * i + 1] = pair.y;
    }
  }
};
template <>
struct Eight<float> {
  float4 a{}, b{};
  __device__ void load(const float* p) {
    a = __ldg(reinterpret_cast<const float4*>(p));
    b = __ldg(reinterpret_cast<const float4*>(p) + 1);
  }
  __device__ void values(float (&f)[8]) const {
    f[0] = a.x, f[1] = a.y, f[2] = a.z, f[3] = a.w;
    f[4] = b.x, f[5] = b.y, f[6] = b.z, f[7] = b.w;
  }
};

__device__ __forceinline__ void load8(const float* p, float (&v)[8]) {
#pragma unroll
  for (int k = 0; k < 8; k += 4)
    *reinterpret_cast<float4*>(v + k) = *reinterpret_cast<const float4*>(p + k);
}

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

/// What a row's sums make of it.
template <int kOutputs>
struct Mixed {
  float inverse, pre[kStreamCount], scale;

  __device__ Mixed(const EnterArgs& args, const float* total) {
    const float* products = total + kOutputs;  // 00 01 02 03 11 12 13 22 23 33
    const std::uint32_t width = args.sizes.n_embd;
    const float mean = (products[0] + products[4] + products[7] + products[9]) /
                       static_cast<float>(kStreamCount * width);
    inverse = 1.0f / sqrtf(mean + args.sizes.rms_eps);
#pragma unroll
    for (int s = 0; s < kStreamCount; ++s)
      pre[s] = sigmoid(total[s] * inverse * args.scale[0] + args.base[s]) + args.sizes.hc_eps;
    float square = 0;
    int pair = 0;
#pragma unroll
    for (int a = 0; a < kStreamCount; ++a)
#pragma unroll
      for (int b = a; b < kStreamCount; ++b, ++pair)
        square += (a == b ? 1.0f : 2.0f) * pre[a] * pre[b] * products[pair];
    scale = 1.0f / sqrtf(fmaxf(square, 0.0f) / static_cast<float>(width) + args.sizes.rms_eps);
  }
};

/// kOutputs: kMixOutputs before a block, 4 before the head. kAhead: pieces of the weights that come
/// while the predecessor still runs; they take many registers, which many rows need for one
/// another. kRows: of a cluster, which share what it reads of the weights.
template <typename Fn, int kOutputs, int kAhead, int kRows>
__global__ void __launch_bounds__(kThreads) enter_kernel(const __grid_constant__ EnterArgs args) {
  constexpr int kSums = kOutputs + kPairs;
  extern __shared__ __align__(16) float slice[];  // [kRows][4][per]
  __shared__ float warp_pairs[kRows][kWarps][kPairs];
  __shared__ float partial[kRows][kSums];
  __shared__ float total[kRows][kSums];
  const cg::cluster_group cluster = cg::this_cluster();
  const unsigned rank = cluster.block_rank(), blocks = cluster.num_blocks();
  const std::uint32_t first_row = blockIdx.x / blocks * kRows;
  const std::uint32_t width = args.sizes.n_embd, per = width / blocks;
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  let_successor_start();

  constexpr int kPerWarp = (kOutputs + kWarps - 1) / kWarps;
  Eight<Fn> weights[kAhead == 0 ? 1 : kAhead][kPerWarp][kStreamCount];
  const auto* fn = static_cast<const Fn*>(args.fn) + rank * per;
  const auto load_weights = [&](std::uint32_t i, Eight<Fn>(&to)[kPerWarp][kStreamCount]) {
    const std::uint32_t column = 8 * (kWarp * i + lane);
#pragma unroll
    for (int o = 0; o < kPerWarp; ++o) {
      const unsigned output = warp * kPerWarp + o;
#pragma unroll
      for (int d = 0; d < kStreamCount; ++d)
        if (column < per && output < kOutputs)
          to[o][d].load(fn + (static_cast<std::size_t>(output) * kStreamCount + d) * width +
                        column);
    }
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) load_weights(i, weights[i]);
  wait_for_predecessor();
  // Rows behind the last repeat it, but for what is written.
  const auto out_row = [&](std::uint32_t r) { return min(first_row + r, args.n - 1); };
  const auto row_of = [&](std::uint32_t r) {
    return args.wanted != nullptr ? args.wanted[out_row(r)] : out_row(r);
  };
  const bool pending = args.pending.y != nullptr || args.pending.down != nullptr;

  float pairs[kRows][kPairs] = {};
  for (std::uint32_t i = threadIdx.x; i < per; i += kThreads) {
    float s[kRows][kStreamCount], y[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const std::uint32_t row = row_of(r);
      const float* streams = args.streams + std::size_t{row} * kStreamCount * width + rank * per;
#pragma unroll
      for (int d = 0; d < kStreamCount; ++d) s[r][d] = streams[d * width + i];
      if (pending) y[r] = pending_value(args.pending, args.sizes, row, args.n, rank * per + i);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (pending) {
        const std::uint32_t row = row_of(r);
        float* streams = args.streams + std::size_t{row} * kStreamCount * width + rank * per;
        spread(s[r], args.mix + std::size_t{row} * kMixKept, y[r]);
#pragma unroll
        for (int d = 0; d < kStreamCount; ++d)
          if (first_row + r < args.n) streams[d * width + i] = s[r][d];
      }
      int pair = 0;
#pragma unroll
      for (int a = 0; a < kStreamCount; ++a) {
        slice[(r * kStreamCount + a) * per + i] = s[r][a];
#pragma unroll
        for (int b = a; b < kStreamCount; ++b, ++pair) pairs[r][pair] += s[r][a] * s[r][b];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      const float sum = warp_sum(pairs[r][pair]);
      if (lane == 0) warp_pairs[r][warp][pair] = sum;
    }
  __syncthreads();
  float dots[kRows][kPerWarp] = {};
  const auto multiply = [&](std::uint32_t i, const Eight<Fn>(&with)[kPerWarp][kStreamCount]) {
    const std::uint32_t column = 8 * (kWarp * i + lane);
    if (column >= per) return;
#pragma unroll
    for (int d = 0; d < kStreamCount; ++d) {
      float f[kPerWarp][8];
#pragma unroll
      for (int o = 0; o < kPerWarp; ++o) with[o][d].values(f[o]);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float s[8];
        load8(slice + (r * kStreamCount + d) * per + column, s);
#pragma unroll
        for (int o = 0; o < kPerWarp; ++o)
#pragma unroll
          for (int k = 0; k < 8; ++k) dots[r][o] += s[k] * f[o][k];
      }
    }
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) multiply(i, weights[i]);
  for (std::uint32_t i = kAhead; i * 8 * kWarp < per; ++i) {
    load_weights(i, weights[0]);
    multiply(i, weights[0]);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int o = 0; o < kPerWarp; ++o) {
      const float sum = warp_sum(dots[r][o]);
      if (lane == 0 && warp * kPerWarp + o < kOutputs) partial[r][warp * kPerWarp + o] = sum;
    }
  for (unsigned i = threadIdx.x; i < kRows * kPairs; i += kThreads) {
    float sum = 0;
    for (unsigned w = 0; w < kWarps; ++w) sum += warp_pairs[i / kPairs][w][i % kPairs];
    partial[i / kPairs][kOutputs + i % kPairs] = sum;
  }
  cluster.sync();
  for (unsigned i = threadIdx.x; i < kRows * kSums; i += kThreads) {
    float sum = 0;
    for (unsigned r = 0; r < blocks; ++r) sum += cluster.map_shared_rank(partial[0], r)[i];
    total[0][i] = sum;
  }
  __syncthreads();
  const auto token = cluster.barrier_arrive();  // nobody leaves while its sums may be read

  if constexpr (kOutputs == kMixOutputs) {
    for (unsigned i = threadIdx.x; rank == 0 && i < kRows * kMixOutputs; i += kThreads) {
      const unsigned r = i / kMixOutputs, output = i % kMixOutputs;
      if (first_row + r >= args.n) continue;
      const int part = output < 4 ? 0 : (output < 8 ? 1 : 2);
      args.logits[std::size_t{row_of(r)} * kMixOutputs + output] =
          total[r][output] * Mixed<kOutputs>(args, total[r]).inverse * args.scale[part] +
          args.base[output];
    }
  }
  // Whole warps have columns of one row.
  for (std::uint32_t at = 8 * threadIdx.x; at < kRows * per; at += 8 * kThreads) {
    const std::uint32_t r = at / per, i = at % per, column = rank * per + i;
    if (first_row + r >= args.n) continue;
    const Mixed<kOutputs> mixed(args, total[r]);
    float v[8] = {}, norm[8];
    std::uint32_t halves[4];
#pragma unroll
    for (int s = 0; s < kStreamCount; ++s) {
      float in[8];
      load8(slice + (r * kStreamCount + s) * per + i, in);
#pragma unroll
      for (int k = 0; k < 8; ++k) v[k] += mixed.pre[s] * in[k];
    }
    load8(args.norm + column, norm);
#pragma unroll
    for (int k = 0; k < 8; ++k) v[k] = v[k] * mixed.scale * norm[k];
#pragma unroll
    for (int k = 0; k < 4; ++k) halves[k] = bits(__floats2half2_rn(v[2 * k], v[2 * k + 1]));
    *reinterpret_cast<uint4*>(args.x.halves + std::size_t{first_row + r} * width + column) =
        make_uint4(halves[0], halves[1], halves[2], halves[3]);
    quantise8(v, args.x.integers, first_row + r, column, width);
  }
  cluster.barrier_wait(std::move(const_cast<cg::cluster_group::arrival_token&>(token)));
}

__global__ void leave_kernel(const __grid_constant__ EnterArgs args) {
  let_successor_start();
  wait_for_predecessor();
  const std::uint32_t row = blockIdx.y, width = args.sizes.n_embd;
  const std::uint32_t e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= width) return;
  float* streams = args.streams + std::size_t{row} * kStreamCount * width + e;
  float s[kStreamCount];
#pragma unroll
  for (int d = 0; d < kStreamCount; ++d) s[d] = streams[d * width];
  spread(s, args.mix + std::size_t{row} * kMixKept,
         pending_value(args.pending, args.sizes, row, args.n, e));
#pragma unroll
  for (int d = 0; d < kStreamCount; ++d) streams[d * width] = s[d];
}

/// Eight values of a row, as floats: exact for floats, else as products see them.
__device__ inline void embedding_values(const std::uint8_t* row, std::uint32_t type,
                                        std::uint32_t i, const Iq2Table* table, float (&v)[8]) {
  if (type == static_cast<std::uint32_t>(TensorType::kF32)) {
    for (int k = 0; k < 8; ++k) v[k] = reinterpret_cast<const float*>(row)[8 * i + k];
    return;
  }
  if (type == static_cast<std::uint32_t>(TensorType::kBF16)) {
    for (int k = 0; k < 8; ++k)
      v[k] = __uint_as_float(std::uint32_t{reinterpret_cast<const std::uint16_t*>(row)[8 * i + k]}
                             << 16);
    return;
  }
  Half8 w;
  with_format(type, [&](auto format) { format.decode8(row, i / 4, i % 4, table, w); });
  for (int k = 0; k < 4; ++k) {
    const float2 pair = __half22float2(as_half2(w[k]));
    v[2 * k] = pair.x, v[2 * k + 1] = pair.y;
  }
}

__global__ void embed_kernel(Sizes sizes, DeviceMatrix embedding, const RowEntry* rows,
                             float* streams, const std::uint16_t* grid) {
  __shared__ Iq2Table table;
  let_successor_start();
  wait_for_predecessor();
  table.fill(grid);
  __syncthreads();
  const auto token = static_cast<std::size_t>(rows[blockIdx.x].token);
  const auto* row =
      reinterpret_cast<const std::uint8_t*>(embedding.data) + token * embedding.row_bytes;
  float* out = streams + std::size_t{blockIdx.x} * kStreamCount * sizes.n_embd;
  for (std::uint32_t i = threadIdx.x; i < sizes.n_embd / 8; i += blockDim.x) {
    float v[8];
    embedding_values(row, embedding.type, i, &table, v);
    for (std::uint32_t s = 0; s < kStreamCount; ++s)
      for (std::uint32_t k = 0; k < 8; ++k) out[std::size_t{s} * sizes.n_embd + 8 * i + k] = v[k];
  }
}

/// One block per row, one thread per pair of each of the four tables.
__global__ void angles_kernel(const RowEntry* rows, std::uint32_t pairs, const double* frequencies,
                              float* angles) {
  let_successor_start();
  wait_for_predecessor();
  const std::uint32_t table = threadIdx.x / pairs, pair = threadIdx.x % pairs;
  if (table >= 4) return;
  std::uint32_t position = rows[blockIdx.x].position;
  if (table == 2) position -= position % 4;
  if (table == 3) position -= position % 128;
  const double angle = position * frequencies[(table == 0 ? 0 : pairs) + pair];
  double sine, cosine;
  sincos(angle, &sine, &cosine);
  float* out = angles + (std::size_t{blockIdx.x} * 4 + table) * 2 * pairs + 2 * pair;
  out[0] = static_cast<float>(cosine);
  out[1] = static_cast<float>(sine);
}

template <int kOutputs>
void launch_enter(Launcher& launcher, bool half, const EnterArgs& args) {
  constexpr std::uint32_t kFewRows = 16, kManyRows = 128, kTogether = 4;
  const unsigned cluster = cluster_of(args.sizes.n_embd);
  const std::uint32_t per = args.sizes.n_embd / cluster;
  const auto run = [&](auto kernel, std::uint32_t rows) {
    launch(launcher, kernel, dim3((args.n + rows - 1) / rows * cluster), kThreads,
           sizeof(float) * rows * kStreamCount * per, cluster, args);
  };
  if (!half)
    run(enter_kernel<float, kOutputs, 0, 1>, 1);
  else if (args.n <= kFewRows)
    run(enter_kernel<__half, kOutputs, 2, 1>, 1);
  else if (args.n < kManyRows || per % kSumBlockColumns != 0)
    run(enter_kernel<__half, kOutputs, 0, 1>, 1);
  else
    run(enter_kernel<__half, kOutputs, 0, kTogether>, kTogether);
}

}  // namespace

void enter_block(Launcher& launcher, const Sizes& sizes, const HyperConnection& hc,
                 const float* norm, const Pending& pending, std::uint32_t n, float* streams,
                 const float* mix, float* logits, const BlockInput& x) {
  launch_enter<kMixOutputs>(
      launcher, hc.fn_is_half,
      {sizes, hc.fn, hc.base, hc.scale, norm, pending, nullptr, n, streams, mix, logits, x});
}

void leave_last_block(Launcher& launcher, const Sizes& sizes, const Pending& pending,
                      std::uint32_t n, float* streams, const float* mix) {
  EnterArgs args{};
  args.sizes = sizes, args.pending = pending, args.n = n, args.streams = streams, args.mix = mix;
  launch(launcher, leave_kernel, dim3((sizes.n_embd + kThreads - 1) / kThreads, n), kThreads, 0, 1,
         args);
}

void enter_head(Launcher& launcher, const Sizes& sizes, const HyperConnection& hc,
                const float* norm, const std::uint32_t* wanted, std::uint32_t n,
                const float* streams, const BlockInput& x) {
  launch_enter<kStreamCount>(launcher, hc.fn_is_half,
                             {sizes,
                              hc.fn,
                              hc.base,
                              hc.scale,
                              norm,
                              {},
                              wanted,
                              n,
                              const_cast<float*>(streams),
                              nullptr,
                              nullptr,
                              x});
}

void embed(Launcher& launcher, const Sizes& sizes, const DeviceMatrix& embedding,
           const RowEntry* rows, std::uint32_t n, float* streams, const std::uint16_t* iq2_grid) {
  launch(launcher, embed_kernel, dim3(n), kThreads, 0, 1, sizes, embedding, rows, streams,
         iq2_grid);
}

void fill_angles(Launcher& launcher, const Sizes& sizes, const RowEntry* rows, std::uint32_t n,
                 const double* frequencies, float* angles) {
  launch(launcher, angles_kernel, dim3(n), 2 * sizes.rope_dim, 0, 1, rows, sizes.rope_dim / 2,
         frequencies, angles);
}

}  // namespace ds4::cuda
