// Down of few rows' experts, the routed in Q2_K, every entry by itself: where two rows share an
// expert, its weights are in the GPU's cache for the second. The shared one, of a single row, in
// Q8_0.
#include "engine/cuda/kernels/few_rows.h"
#include "engine/cuda/kernels/one_row.cuh"

namespace ds4::cuda {
namespace {

constexpr std::uint32_t kWarps = 8;
using Input = PaddedRow<8, kSumBlockColumns>;
constexpr std::uint32_t kCols = 8 * kSumBlockColumns;
// Of 256 columns: four words of scales and minimums, sixteen of values, then d and dmin.
constexpr std::uint32_t kBlockWords = 21;
constexpr std::uint32_t kUnits = 4;  // of a warp
constexpr std::uint32_t kUnitWords = kUnitRows * 8 * kBlockWords, kBytes = kUnits * kUnitWords * 4;
constexpr std::uint32_t kRows = kWarps * kUnits * kUnitRows;  // of a block
constexpr std::uint32_t kChunks = 4;                          // of the shared expert, a row each
static_assert(kCols == kChunkCols && kChunks * kChunkBytes <= kBytes);

/// Of a block.
struct Memory {
  std::uint8_t weights[kWarps][kBytes];
  Input x;
  alignas(16) std::byte hidden[QuantisedRows::bytes(1, kCols)];
};

/// Four units of four rows; a lane has a block of 256 columns of a row of each. What each 32
/// columns add comes to lie where the block's values were.
__device__ __forceinline__ void multiply_units(std::uint32_t* w, const Input& x) {
  const std::uint32_t part = threadIdx.x % 8;
#pragma unroll 1
  for (std::uint32_t half = 0; half < 2; ++half) {
    std::uint32_t q[kUnits][8], scales[kUnits][2];
#pragma unroll
    for (std::uint32_t u = 0; u < kUnits; ++u) {
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
      for (std::uint32_t u = 0; u < kUnits; ++u) {
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
__device__ __forceinline__ float add_unit(const std::uint32_t* w, const Input& x,
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

/// The first `shared_blocks` blocks are the shared expert's, then come those of each routed one.
/// Every block makes integers of the hidden row that it needs.
__global__ void __launch_bounds__(kWarps* kWarp)
    down_kernel(const __grid_constant__ ExpertProducts e, std::uint32_t shared_blocks) {
  extern __shared__ __align__(128) std::uint8_t base[];
  auto& memory = *reinterpret_cast<Memory*>(base);
  __shared__ PhaseBarrier barrier[kWarps];
  __shared__ float sums[kWarps][kChunks * kChunkSegments];
  let_successor_start();
  const std::uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::uint32_t rows = e.down.first.rows, cols = e.down.first.cols;
  const bool is_shared = blockIdx.x < shared_blocks;
  const std::uint32_t blocks = rows / kRows;
  const std::uint32_t entry = is_shared ? e.rows * e.used : (blockIdx.x - shared_blocks) / blocks;
  Q8Chunks<kChunks> chunks;
  if (is_shared)
    chunks.start(memory.weights[warp], barrier[warp], [&](std::uint32_t c) {
      return reinterpret_cast<const std::uint8_t*>(e.shared_down.data) +
             ((blockIdx.x * kWarps + warp) * kChunks + c) * e.shared_down.row_bytes;
    });
  wait_for_predecessor();
  const std::uint32_t first =
      ((blockIdx.x - shared_blocks) % blocks * kWarps + warp) * (kUnits * kUnitRows);
  if (!is_shared) {
    const std::uint32_t expert = expert_of(e, entry);
    if (lane == 0) {
      barrier[warp].expect(kBytes);
      barrier[warp].bulk_copy(
          memory.weights[warp],
          e.down.first.data + expert * e.down.stride + first * e.down.first.row_bytes, kBytes);
    }
  }
  const QuantisedRows x = QuantisedRows::place(memory.hidden, 1, cols);
  for (std::uint32_t i = warp; i < cols / kSumBlockColumns; i += kWarps) {
    const std::uint32_t column = i * kSumBlockColumns + 8 * lane;
    float v[8];
    load8_values(e.hidden + std::size_t{entry} * cols + column, v);
    quantise8(v, x, 0, column, cols);
  }
  __syncthreads();
  if (is_shared) {
    chunks.multiply(barrier[warp], x, 64 * lane, sums[warp]);
    __syncwarp();
    if (lane < kChunks)
      e.down_out[std::size_t{entry} * rows + (blockIdx.x * kWarps + warp) * kChunks + lane] =
          Q8Split{cols}.total<kChunks>(sums[warp], lane);
    return;
  }
  memory.x.fill(x);
  __syncthreads();
  wait_for_bytes(barrier[warp]);
  auto* w = reinterpret_cast<std::uint32_t*>(memory.weights[warp]) + kBlockWords * lane;
  multiply_units(w, memory.x);
#pragma unroll 1
  for (std::uint32_t u = 0; u < kUnits; ++u) {
    const float total = add_unit(w + u * kUnitWords, memory.x, x);
    if (lane % 8 == 0)
      e.down_out[std::size_t{entry} * rows + first + u * kUnitRows + lane / 8] = total;
  }
}

}  // namespace

bool few_rows_supports_down(const Launcher& launcher, const ExpertProducts& e) {
  const DeviceMatrix& like = e.down.first;
  return has_few_entries(e) && one_row_reads(like, TensorType::kQ2_K) &&
         one_row_reads(e.shared_down, TensorType::kQ8_0) && like.cols == kCols &&
         like.rows % kRows == 0 && e.down.stride % 16 == 0 &&
         one_row_has_room(launcher, 2 * sizeof(Memory));
}

void run_few_rows_down(Launcher& launcher, const ExpertProducts& e) {
  const std::uint32_t rows = e.down.first.rows;
  const std::uint32_t shared_blocks = e.rows == 1 ? rows / (kWarps * kChunks) : 0;
  launch(launcher, down_kernel, dim3(shared_blocks + rows / kRows * e.rows * e.used),
         kWarps * kWarp, sizeof(Memory), 1, e, shared_blocks);
}

}  // namespace ds4::cuda
