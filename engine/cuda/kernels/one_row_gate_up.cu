// Gate and up of one row's experts: the routed in IQ2_XXS, the shared one in Q8_0.
#include "engine/cuda/kernels/one_row.cuh"
#include "engine/cuda/kernels/one_row.h"

namespace ds4::cuda {
namespace {

constexpr std::uint32_t kWarps = 8;
using Iq2Vectors = SignedVectors<8>;
using Input = PaddedRow<8, kSegment>;
constexpr std::uint32_t kCols = 8 * kSegment;
constexpr std::uint32_t kRows = kWarps * kUnitRows;  // of a block
constexpr std::uint32_t kChunks = 4;  // of the shared expert: two rows of each matrix

/// Of a block.
struct Memory {
  std::uint8_t weights[kWarps][kChunks * kChunkBytes];
  Iq2Vectors vectors;
  Input x;
};

/// Four rows of gate and of up, whose bytes are at `units`; a lane has a segment of a row of each.
__device__ __forceinline__ void multiply_units(const std::uint8_t* units, const Iq2Vectors& table,
                                               const Input& x, float (&acc)[2]) {
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
      acc[m] = add_block(acc[m], plane_sum(h, l), w_scale_iq2_xxs(d[m], q[m].y >> 28), x_scale);
    }
  };
  // The first block's groups lie between words, behind its scale; the second's in words.
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

/// The first `shared_blocks` blocks are the shared expert's, then come those of each routed one.
__global__ void __launch_bounds__(kWarps* kWarp)
    gate_up_kernel(const __grid_constant__ ExpertProducts e, std::uint32_t shared_blocks,
                   const std::uint16_t* iq2_grid) {
  extern __shared__ __align__(128) std::uint8_t base[];
  auto& memory = *reinterpret_cast<Memory*>(base);
  __shared__ PhaseBarrier barrier[kWarps];
  __shared__ float sums[kWarps][kChunks * kChunkSegments];
  let_successor_start();
  const std::uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::uint32_t ffn = e.gate.first.rows, cols = e.gate.first.cols;
  if (blockIdx.x < shared_blocks) {
    const Q8Split split{cols};
    const std::uint32_t across = split.across(), first = blockIdx.x * (kWarps / across * 2);
    Q8Chunks<kChunks> chunks;
    chunks.start(memory.weights[warp], barrier[warp], [&](std::uint32_t c) {
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
    e.hidden[std::size_t{e.used} * ffn + first + r] = __float2half_rn(gated(
        split.total<kChunks>(of_row, r % 2), split.total<kChunks>(of_row, r % 2 + 2), e.limit));
    return;
  }
  memory.vectors.fill(iq2_grid);
  wait_for_predecessor();
  const std::uint32_t blocks = ffn / kRows;
  const std::uint32_t entry = (blockIdx.x - shared_blocks) / blocks;
  const std::uint32_t first = ((blockIdx.x - shared_blocks) % blocks * kWarps + warp) * kUnitRows;
  if (lane == 0) {
    const std::uint32_t expert = expert_of(e, entry);
    const auto bytes = static_cast<std::uint32_t>(kUnitRows * e.gate.first.row_bytes);
    barrier[warp].expect(2 * bytes);
    barrier[warp].bulk_copy(
        memory.weights[warp],
        e.gate.first.data + expert * e.gate.stride + first * e.gate.first.row_bytes, bytes);
    barrier[warp].bulk_copy(memory.weights[warp] + bytes,
                            e.up.first.data + expert * e.up.stride + first * e.up.first.row_bytes,
                            bytes);
  }
  memory.x.fill(e.x_integers);
  __syncthreads();
  wait_for_bytes(barrier[warp]);
  float acc[2] = {}, total[2] = {};
  multiply_units(memory.weights[warp], memory.vectors, memory.x, acc);
#pragma unroll
  for (std::uint32_t s = 0; s < 8; ++s)
#pragma unroll
    for (int m = 0; m < 2; ++m)
      total[m] = __fadd_rn(total[m], __shfl_sync(kFullWarp, acc[m], (lane & 24) | s));
  if (lane % 8 == 0)
    e.hidden[std::size_t{entry} * ffn + first + lane / 8] =
        __float2half_rn(gated(total[0], total[1], e.limit));
}

}  // namespace

bool one_row_supports_gate_up(const Launcher& launcher, const ExpertProducts& e) {
  const DeviceMatrix& like = e.gate.first;
  return one_row_reads(like, TensorType::kIQ2_XXS) &&
         one_row_reads(e.up.first, TensorType::kIQ2_XXS) &&
         one_row_reads(e.shared_gate, TensorType::kQ8_0) &&
         one_row_reads(e.shared_up, TensorType::kQ8_0) && like.cols == kCols &&
         like.rows % kRows == 0 && e.gate.stride % 16 == 0 && e.up.stride % 16 == 0 &&
         one_row_has_room(launcher, 2 * sizeof(Memory));
}

void run_one_row_gate_up(Launcher& launcher, const ExpertProducts& e,
                         const std::uint16_t* iq2_grid) {
  const std::uint32_t rows = e.gate.first.rows;
  const std::uint32_t shared_blocks = rows / (kWarps / Q8Split{kCols}.across() * 2);
  launch(launcher, gate_up_kernel, dim3(shared_blocks + rows / kRows * e.used), kWarps * kWarp,
         sizeof(Memory), 1, e, shared_blocks, iq2_grid);
}

}  // namespace ds4::cuda
