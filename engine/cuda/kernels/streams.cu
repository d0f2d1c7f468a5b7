// The four residual streams: filled from the embedding, read and mixed before every block.
// entering.cuh says how the latter is shared out.
#include "engine/cuda/kernels/entering.cuh"

namespace ds4::cuda {
namespace {

namespace cg = cooperative_groups;

constexpr unsigned kThreads = 256, kWarps = kThreads / kWarp;

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

/// kOutputs: kMixOutputs before a block, 4 before the head. kAhead: turns whose weights come while
/// the predecessor still runs; they take many registers, which many rows need for one another.
template <typename Fn, int kOutputs, int kAhead>
__global__ void __launch_bounds__(kThreads, kAhead == 0 && sizeof(Fn) == 2 ? 3 : 1)
    enter_kernel(const __grid_constant__ EnterArgs args) {
  constexpr int kSums = kOutputs + kPairs;
  extern __shared__ __align__(16) float slice[];  // [4][pitch]
  __shared__ float partial[kSums], total[kSums];
  const cg::cluster_group cluster = cg::this_cluster();
  const unsigned rank = cluster.block_rank(), blocks = cluster.num_blocks();
  const std::uint32_t out_row = blockIdx.x / blocks;
  const std::uint32_t width = args.sizes.n_embd, per = width / blocks, pitch = slice_pitch(per);
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  let_successor_start();

  constexpr int kPerWarp = (kOutputs + kWarps - 1) / kWarps;
  Eight<Fn> weights[kAhead == 0 ? 1 : kAhead][kPerWarp][kStreamCount];
  const auto* fn = static_cast<const Fn*>(args.fn) + rank * per;
  const auto load_weights = [&](std::uint32_t i, Eight<Fn>(&to)[kPerWarp][kStreamCount]) {
    const std::uint32_t column = kTurn * i + 8 * lane;
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
  const std::uint32_t row = args.wanted != nullptr ? args.wanted[out_row] : out_row;
  const bool pending = args.pending.y != nullptr || args.pending.down != nullptr;
  float* streams = args.streams + std::size_t{row} * kStreamCount * width + rank * per;
  for (std::uint32_t i = threadIdx.x; i < per; i += kThreads) {
    float s[kStreamCount];
#pragma unroll
    for (int d = 0; d < kStreamCount; ++d) s[d] = streams[d * width + i];
    if (pending) {
      spread(s, args.mix + std::size_t{row} * kMixKept,
             pending_value(args.pending, args.sizes, row, args.n, rank * per + i));
#pragma unroll
      for (int d = 0; d < kStreamCount; ++d) streams[d * width + i] = s[d];
    }
    float* at = slice + i / kTurn * kTurn + place(i);
#pragma unroll
    for (int d = 0; d < kStreamCount; ++d) at[d * pitch] = s[d];
  }
  __syncthreads();

  float dots[kPerWarp] = {};
  const auto multiply = [&](std::uint32_t i, const Eight<Fn>(&with)[kPerWarp][kStreamCount]) {
    if (kTurn * i + 8 * lane >= per) return;
#pragma unroll
    for (int d = 0; d < kStreamCount; ++d) {
      float s[8];
      load_lane(slice + d * pitch + kTurn * i, s);
#pragma unroll
      for (int o = 0; o < kPerWarp; ++o) {
        float f[8];
        with[o][d].values(f);
#pragma unroll
        for (int k = 0; k < 8; ++k) dots[o] = __fmaf_rn(s[k], f[k], dots[o]);
      }
    }
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) multiply(i, weights[i]);
  for (std::uint32_t i = kAhead; i * kTurn < per; ++i) {
    load_weights(i, weights[0]);
    multiply(i, weights[0]);
  }
#pragma unroll
  for (int o = 0; o < kPerWarp; ++o) {
    const float sum = warp_sum(dots[o]);
    if (lane == 0 && warp * kPerWarp + o < kOutputs) partial[warp * kPerWarp + o] = sum;
  }
  for (unsigned pair = warp; pair < kPairs; pair += kWarps) {
    const uint2 two = streams_of(pair);
    float sum = 0;
    for (std::uint32_t turn = 0; turn + 8 * lane < per; turn += kTurn) {
      float a[8], b[8];
      load_lane(slice + two.x * pitch + turn, a);
      load_lane(slice + two.y * pitch + turn, b);
#pragma unroll
      for (int k = 0; k < 8; ++k) sum = __fmaf_rn(a[k], b[k], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) partial[kOutputs + pair] = sum;
  }
  cluster.sync();
  add_slices<kSums>(cluster, partial, total);
  __syncthreads();
  auto token = cluster.barrier_arrive();  // nobody leaves while its sums may be read

  const Mixed mixed = Mixed::of<kOutputs>(args, total);
  if (kOutputs == kMixOutputs && rank == 0 && threadIdx.x < kOutputs)
    mixed.store_logit(args, total, row, threadIdx.x);
  for (std::uint32_t turn = kTurn * warp; turn < per; turn += kTurn * kWarps)
    write_input(args, mixed, slice + turn, pitch, out_row, rank * per + turn + 8 * lane);
  cluster.barrier_wait(std::move(token));
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
  constexpr std::uint32_t kFewRows = 16, kManyRows = 128;
  if (kOutputs == kMixOutputs && half && args.n >= kManyRows && enter_wide(launcher, args)) return;
  const unsigned cluster = slices_of(args.sizes.n_embd);
  const auto run = [&](auto kernel) {
    launch(launcher, kernel, dim3(args.n * cluster), kThreads,
           sizeof(float) * kStreamCount * slice_pitch(args.sizes.n_embd / cluster), cluster, args);
  };
  if (!half)
    run(enter_kernel<float, kOutputs, 0>);
  else if (args.n <= kFewRows)
    run(enter_kernel<__half, kOutputs, 2>);
  else
    run(enter_kernel<__half, kOutputs, 0>);
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
