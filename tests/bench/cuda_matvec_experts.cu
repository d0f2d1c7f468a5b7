// The experts' products with one row.
#include "tests/bench/cuda_matvec_q8.cuh"

namespace ds4::bench {
namespace {

constexpr std::uint32_t kUnitRows = 4;  // of eight lanes each

/// Columns of a row in shared memory in parts, with room between them so that lanes of different
/// parts do not meet in a bank.
template <std::uint32_t kParts, std::uint32_t kCols>
struct PaddedRow {
  static constexpr std::uint32_t kPitch = kCols + 16;
  std::int8_t hi[kParts * kPitch], lo[kParts * kPitch];
  float scale[kParts][kCols / 32 + 1];

  __device__ void fill(const QuantisedRows& x) {
    for (std::uint32_t i = threadIdx.x; i < kParts * kCols / 16; i += blockDim.x) {
      const std::uint32_t to = 16 * i / kCols * kPitch + 16 * i % kCols;
      *reinterpret_cast<uint4*>(hi + to) = reinterpret_cast<const uint4*>(x.hi)[i];
      *reinterpret_cast<uint4*>(lo + to) = reinterpret_cast<const uint4*>(x.lo)[i];
    }
    for (std::uint32_t i = threadIdx.x; i < kParts * kCols / 32; i += blockDim.x)
      scale[i / (kCols / 32)][i % (kCols / 32)] = x.scale[i];
  }
};
/// 32 columns.
__device__ __forceinline__ void load_group(const std::int8_t* plane, std::uint32_t (&x)[8]) {
  const uint4 a = reinterpret_cast<const uint4*>(plane)[0];
  const uint4 b = reinterpret_cast<const uint4*>(plane)[1];
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}
__device__ __forceinline__ int multiply_four(std::uint32_t w, std::uint32_t x, int sum) {
  return __dp4a(static_cast<int>(w), static_cast<int>(x), sum);
}

using Iq2Vectors = SignedVectors<8>;
using GateUpInput = PaddedRow<8, 512>;
constexpr std::uint32_t kGateUpChunks = 4;  // of the shared expert: two rows of each matrix

template <int kWarps>
struct GateUpShared {
  std::uint8_t weights[kWarps][kGateUpChunks * kChunkBytes];
  Iq2Vectors vectors;
  GateUpInput x;
};

/// Four rows of gate and of up, whose bytes are at `units`; a lane has a segment of a row of each.
__device__ __forceinline__ void multiply_gate_up(const std::uint8_t* units, const Iq2Vectors& table,
                                                 const GateUpInput& x, float (&acc)[2]) {
  constexpr std::uint32_t kWords = 33, kUnitWords = kUnitRows * 8 * kWords;
  const std::uint32_t lane = threadIdx.x % kWarp, segment = lane % 8;
  const auto* w = reinterpret_cast<const std::uint32_t*>(units) + kWords * lane;
  const std::int8_t *x_hi = x.hi + segment * x.kPitch, *x_lo = x.lo + segment * x.kPitch;
  const auto group = [&](std::uint32_t g, const uint2(&q)[2], const float(&d)[2]) {
    std::uint32_t hi[8], lo[8];
    load_group(x_hi + 32 * g, hi);
    load_group(x_lo + 32 * g, lo);
    const float x_scale = x.scale[segment][g];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const uint2 v[4] = {table.vector<0>(q[m]), table.vector<1>(q[m]), table.vector<2>(q[m]),
                          table.vector<3>(q[m])};
      int h = 0, l = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        h = multiply_four(v[i].y, hi[2 * i + 1], multiply_four(v[i].x, hi[2 * i], h));
        l = multiply_four(v[i].y, lo[2 * i + 1], multiply_four(v[i].x, lo[2 * i], l));
      }
      const float scale =
          __fmul_rn(d[m], __fmul_rn(__uint2float_rn(2 * (q[m].y >> 28) + 1), 0.125f));
      acc[m] = add_block(acc[m], plane_sum(h, l), scale, x_scale);
    }
  };
  std::uint32_t before[2] = {w[0], w[kUnitWords]};
  float d[2] = {half_bits(before[0] & 0xFFFF), half_bits(before[1] & 0xFFFF)};
#pragma unroll 1
  for (std::uint32_t g = 0; g < 8; ++g) {
    uint2 q[2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const std::uint32_t a = w[m * kUnitWords + 2 * g + 1], b = w[m * kUnitWords + 2 * g + 2];
      q[m] = {__funnelshift_r(before[m], a, 16), __funnelshift_r(a, b, 16)};
      before[m] = b;
    }
    group(g, q, d);
  }
  d[0] = half_bits(before[0] >> 16), d[1] = half_bits(before[1] >> 16);
#pragma unroll 1
  for (std::uint32_t g = 0; g < 8; ++g) {
    const std::uint32_t *a = w + 17 + 2 * g, *b = a + kUnitWords;
    const uint2 q[2] = {{a[0], a[1]}, {b[0], b[1]}};
    group(8 + g, q, d);
  }
}

template <int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp)
    gate_up(const __grid_constant__ ExpertProducts e, std::uint32_t shared_blocks,
            const std::uint16_t* iq2_grid) {
  extern __shared__ __align__(128) std::uint8_t base[];
  auto& shared = *reinterpret_cast<GateUpShared<kWarps>*>(base);
  __shared__ std::uint64_t barrier[kWarps];
  __shared__ float sums[kWarps][kGateUpChunks * kChunkSegments];
  let_successor_start();
  const std::uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::uint32_t ffn = e.gate.first.rows, cols = e.gate.first.cols;
  if (blockIdx.x < shared_blocks) {
    const Q8Split split{cols};
    const std::uint32_t across = split.across(), first = blockIdx.x * (kWarps / across * 2);
    Q8Chunks<kGateUpChunks, true> chunks;
    chunks.start(shared.weights[warp], barrier[warp], [&](std::uint32_t c) {
      const DeviceMatrix& matrix = c < 2 ? e.shared_gate : e.shared_up;
      return reinterpret_cast<const std::uint8_t*>(matrix.data) +
             (first + warp / across * 2 + c % 2) * matrix.row_bytes + warp % across * kChunkBytes;
    });
    wait_for_predecessor();
    chunks.multiply(barrier[warp], e.x_integers, warp % across * kChunkCols + 64 * lane,
                    sums[warp]);
    __syncthreads();
    const std::uint32_t r = threadIdx.x;
    if (r >= kWarps / across * 2) return;
    const float* of_row = sums[r / 2 * across];
    e.hidden[std::size_t{e.used} * ffn + first + r] =
        __float2half_rn(gated(split.template total<kGateUpChunks>(of_row, r % 2),
                              split.template total<kGateUpChunks>(of_row, r % 2 + 2), e.limit));
    return;
  }
  shared.vectors.fill(iq2_grid);
  wait_for_predecessor();
  const std::uint32_t blocks = ffn / (kWarps * kUnitRows);
  const std::uint32_t entry = (blockIdx.x - shared_blocks) / blocks;
  const std::uint32_t first = ((blockIdx.x - shared_blocks) % blocks * kWarps + warp) * kUnitRows;
  if (lane == 0) {
    const std::uint32_t expert = e.groups.expert[entry];
    const auto bytes = static_cast<std::uint32_t>(kUnitRows * e.gate.first.row_bytes);
    expect_bytes(barrier[warp], 2 * bytes);
    bulk_copy(shared.weights[warp],
              e.gate.first.data + expert * e.gate.stride + first * e.gate.first.row_bytes, bytes,
              barrier[warp]);
    bulk_copy(shared.weights[warp] + bytes,
              e.up.first.data + expert * e.up.stride + first * e.up.first.row_bytes, bytes,
              barrier[warp]);
  }
  shared.x.fill(e.x_integers);
  __syncthreads();
  wait_for_bytes(barrier[warp]);
  float acc[2] = {}, total[2] = {};
  multiply_gate_up(shared.weights[warp], shared.vectors, shared.x, acc);
#pragma unroll
  for (std::uint32_t s = 0; s < 8; ++s)
#pragma unroll
    for (int m = 0; m < 2; ++m)
      total[m] = __fadd_rn(total[m], __shfl_sync(kFullWarp, acc[m], (lane & 24) | s));
  if (lane % 8 == 0)
    e.hidden[std::size_t{entry} * ffn + first + lane / 8] =
        __float2half_rn(gated(total[0], total[1], e.limit));
}

using DownInput = PaddedRow<8, 256>;
constexpr std::uint32_t kDownChunks = 4;  // of the shared expert, a row each
constexpr std::uint32_t kDownUnits = 4, kDownBytes = kDownUnits * kUnitRows * 8 * 84;

template <int kWarps>
struct DownShared {
  std::uint8_t weights[kWarps][kDownBytes];
  DownInput x;
  alignas(16) std::byte hidden[QuantisedRows::bytes(1, kChunkCols)];
};

/// Four units of four rows; a lane has a block of 256 columns of a row of each. What each 32
/// columns add comes to lie where the block's values were.
__device__ __forceinline__ void multiply_down(std::uint32_t* w, const DownInput& x) {
  constexpr std::uint32_t kUnitWords = kUnitRows * 8 * 21;
  const std::uint32_t part = threadIdx.x % 8;
#pragma unroll 1
  for (std::uint32_t half = 0; half < 2; ++half) {
    std::uint32_t q[kDownUnits][8], scales[kDownUnits][2];
#pragma unroll
    for (std::uint32_t u = 0; u < kDownUnits; ++u) {
#pragma unroll
      for (int i = 0; i < 8; ++i) q[u][i] = w[u * kUnitWords + 4 + 8 * half + i];
      scales[u][0] = w[u * kUnitWords + 2 * half], scales[u][1] = w[u * kUnitWords + 2 * half + 1];
    }
#pragma unroll 1
    for (std::uint32_t g = 0; g < 4; ++g) {
      const std::uint32_t column = part * x.kPitch + 128 * half + 32 * g;
      std::uint32_t hi[8], lo[8];
      load_group(x.hi + column, hi);
      load_group(x.lo + column, lo);
#pragma unroll
      for (std::uint32_t u = 0; u < kDownUnits; ++u) {
        int h[2] = {}, l[2] = {};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const std::uint32_t two_bits = q[u][i] >> 2 * g & 0x03030303u;
          h[i / 4] = multiply_four(two_bits, hi[i], h[i / 4]);
          l[i / 4] = multiply_four(two_bits, lo[i], l[i / 4]);
        }
        const std::uint32_t pair = (g < 2 ? scales[u][0] : scales[u][1]) >> 16 * (g % 2);
        const int low = pair & 15, high = pair >> 8 & 15;
        w[u * kUnitWords + 4 + 8 * half + g] =
            __float_as_uint(plane_sum(low * h[0] + high * h[1], low * l[0] + high * l[1]));
      }
    }
  }
}

/// The sum of the row's segments in order, in every lane of the row.
__device__ __forceinline__ float add_down(const std::uint32_t* w, const DownInput& x,
                                          const QuantisedRows& sums) {
  const std::uint32_t lane = threadIdx.x % kWarp, part = lane % 8;
  const auto* sum_hi = reinterpret_cast<const std::uint32_t*>(sums.sum_hi + 16 * part);
  const auto* sum_lo = reinterpret_cast<const std::uint32_t*>(sums.sum_lo + 16 * part);
  int h = 0, l = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t minimums = w[i] >> 4 & 0x0F0F0F0Fu;
    h = multiply_four(minimums, sum_hi[i], h);
    l = multiply_four(minimums, sum_lo[i], l);
  }
  const float d = half_bits(w[20] & 0xFFFF), dmin = half_bits(w[20] >> 16);
  const auto add = [&](float acc) {
#pragma unroll
    for (std::uint32_t g = 0; g < 8; ++g)
      acc = add_block(acc, __uint_as_float(w[4 + 8 * (g / 4) + g % 4]), d, x.scale[part][g]);
    return add_minimums(acc, plane_sum(h, l), dmin, sums.sum_scale[part]);
  };
  // The second block of a segment goes on where the first has ended.
  const float first = add(0);
  const float both = add(__shfl_xor_sync(kFullWarp, first, 1));
  float total = 0;
#pragma unroll
  for (std::uint32_t s = 1; s < 8; s += 2)
    total = __fadd_rn(total, __shfl_sync(kFullWarp, both, (lane & 24) | s));
  return total;
}

template <int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp)
    down(const __grid_constant__ ExpertProducts e, std::uint32_t shared_blocks) {
  extern __shared__ __align__(128) std::uint8_t base[];
  auto& shared = *reinterpret_cast<DownShared<kWarps>*>(base);
  __shared__ std::uint64_t barrier[kWarps];
  __shared__ float sums[kWarps][kDownChunks * kChunkSegments];
  let_successor_start();
  const std::uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::uint32_t rows = e.down.first.rows, cols = e.down.first.cols;
  const bool of_all = blockIdx.x < shared_blocks;
  const std::uint32_t blocks = rows / (kWarps * kDownUnits * kUnitRows);
  const std::uint32_t entry = of_all ? e.used : (blockIdx.x - shared_blocks) / blocks;
  Q8Chunks<kDownChunks, true> chunks;
  if (of_all)
    chunks.start(shared.weights[warp], barrier[warp], [&](std::uint32_t c) {
      return reinterpret_cast<const std::uint8_t*>(e.shared_down.data) +
             ((blockIdx.x * kWarps + warp) * kDownChunks + c) * e.shared_down.row_bytes;
    });
  wait_for_predecessor();
  const std::uint32_t first =
      ((blockIdx.x - shared_blocks) % blocks * kWarps + warp) * (kDownUnits * kUnitRows);
  if (!of_all && lane == 0) {
    expect_bytes(barrier[warp], kDownBytes);
    bulk_copy(
        shared.weights[warp],
        e.down.first.data + e.groups.expert[entry] * e.down.stride + first * e.down.first.row_bytes,
        kDownBytes, barrier[warp]);
  }
  const QuantisedRows x = QuantisedRows::place(shared.hidden, 1, cols);
  for (std::uint32_t i = warp; i < cols / kSumBlockColumns; i += kWarps) {
    const std::uint32_t column = i * kSumBlockColumns + 8 * lane;
    const uint4 in = *reinterpret_cast<const uint4*>(e.hidden + std::size_t{entry} * cols + column);
    const std::uint32_t pairs[4] = {in.x, in.y, in.z, in.w};
    float v[8];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float2 two = __half22float2(as_half2(pairs[k]));
      v[2 * k] = two.x, v[2 * k + 1] = two.y;
    }
    quantise8(v, x, 0, column, cols);
  }
  __syncthreads();
  if (of_all) {
    chunks.multiply(barrier[warp], x, 64 * lane, sums[warp]);
    __syncwarp();
    if (lane < kDownChunks)
      e.down_out[std::size_t{entry} * rows + (blockIdx.x * kWarps + warp) * kDownChunks + lane] =
          Q8Split{cols}.total<kDownChunks>(sums[warp], lane);
    return;
  }
  shared.x.fill(x);
  __syncthreads();
  wait_for_bytes(barrier[warp]);
  auto* w = reinterpret_cast<std::uint32_t*>(shared.weights[warp]) + 21 * lane;
  multiply_down(w, shared.x);
#pragma unroll 1
  for (std::uint32_t u = 0; u < kDownUnits; ++u) {
    const float total = add_down(w + u * kUnitRows * 8 * 21, shared.x, x);
    if (lane % 8 == 0)
      e.down_out[std::size_t{entry} * rows + first + u * kUnitRows + lane / 8] = total;
  }
}

template <int kWarps>
void run_gate_up(Launcher& launcher, const ExpertProducts& e, const std::uint16_t* iq2_grid) {
  const DeviceMatrix& like = e.gate.first;
  const std::uint32_t shared_blocks = like.rows / (kWarps / Q8Split{like.cols}.across() * 2);
  const std::uint32_t blocks = like.rows / (kWarps * kUnitRows) * e.used;
  launch(launcher, gate_up<kWarps>, dim3(shared_blocks + blocks), kWarps * kWarp,
         sizeof(GateUpShared<kWarps>), 1, e, shared_blocks, iq2_grid);
}
template <int kWarps>
void run_down(Launcher& launcher, const ExpertProducts& e, const std::uint16_t*) {
  const DeviceMatrix& like = e.down.first;
  const std::uint32_t shared_blocks = like.rows / (kWarps * kDownChunks);
  const std::uint32_t blocks = like.rows / (kWarps * kDownUnits * kUnitRows) * e.used;
  launch(launcher, down<kWarps>, dim3(shared_blocks + blocks), kWarps * kWarp,
         sizeof(DownShared<kWarps>), 1, e, shared_blocks);
}

constexpr Way<ExpertProducts> kGateUpWays[] = {{"4 warps", run_gate_up<4>},
                                               {"8 warps", run_gate_up<8>}};
constexpr Way<ExpertProducts> kDownWays[] = {{"4 warps", run_down<4>}, {"8 warps", run_down<8>}};

}  // namespace

std::span<const Way<ExpertProducts>> gate_up_ways() {
  return kGateUpWays;
}
std::span<const Way<ExpertProducts>> down_ways() {
  return kDownWays;
}

}  // namespace ds4::bench
