// Products of Q8_0 with one row, and kernels that only read.
#include "tests/bench/cuda_matvec_q8.cuh"

namespace ds4::bench {
namespace {

/// kMultiply false: only reads.
template <int kWarps, int kChunks, bool kBulk, bool kMultiply>
__global__ void __launch_bounds__(kWarps* kWarp)
    q8_products(const __grid_constant__ Q8Products list) {
  extern __shared__ __align__(128) std::uint8_t base[];
  __shared__ std::uint64_t barrier[kWarps];
  __shared__ float sums[kWarps][kChunks * kChunkSegments];
  let_successor_start();
  const Q8Split split{list.cols};
  const std::uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::uint32_t across = split.across(), of_chunk = split.rows_of_chunk();
  const std::uint32_t of_warp = kChunks * of_chunk, of_block = kWarps / across * of_warp;
  const std::uint32_t item = blockIdx.x * of_block / list.rows;
  const std::uint32_t first = blockIdx.x * of_block % list.rows, row_bytes = list.cols / 32 * 34;
  Q8Chunks<kChunks, kBulk> chunks;
  chunks.start(base + warp * chunks.kBytes, barrier[warp], [&](std::uint32_t c) {
    return list.weights[item] +
           std::size_t{first + warp / across * of_warp + c * of_chunk} * row_bytes +
           warp % across * kChunkBytes;
  });
  wait_for_predecessor();
  if constexpr (!kMultiply) return wait_for_bytes(barrier[warp]);
  chunks.multiply(barrier[warp], list.x[item],
                  warp % across * kChunkCols + lane % (kWarp / of_chunk) * 64, sums[warp]);
  __syncthreads();
  for (std::uint32_t r = threadIdx.x; r < of_block; r += blockDim.x)
    list.y[item][first + r] =
        split.template total<kChunks>(sums[r / of_warp * across], r % of_warp);
}

template <int kWarps, int kChunks, bool kBulk, bool kMultiply = true>
void run_q8(Launcher& launcher, const Q8Products& list, const std::uint16_t*) {
  const Q8Split split{list.cols};
  const std::uint32_t of_block = kWarps / split.across() * kChunks * split.rows_of_chunk();
  launch(launcher, q8_products<kWarps, kChunks, kBulk, kMultiply>,
         dim3(list.rows * list.count / of_block), kWarps * kWarp, kWarps * kChunks * kChunkBytes, 1,
         list);
}
constexpr Way<Q8Products> kQ8Ways[] = {
    {"4 warps, 2 chunks, copy engine", run_q8<4, 2, true>},
    {"4 warps, 4 chunks, copy engine", run_q8<4, 4, true>},
    {"8 warps, 2 chunks, copy engine", run_q8<8, 2, true>},
    {"8 warps, 4 chunks, copy engine", run_q8<8, 4, true>},
    {"8 warps, 8 chunks, copy engine", run_q8<8, 8, true>},
    {"16 warps, 4 chunks, copy engine", run_q8<16, 4, true>},
    {"4 warps, 4 chunks, 17 loads a lane", run_q8<4, 4, false>},
    {"8 warps, 4 chunks, 17 loads a lane", run_q8<8, 4, false>},
    {"8 warps, 4 chunks, copy engine, reads only", run_q8<8, 4, true, false>, false},
};
// Only reading --------------------------------------------------------------------------------

constexpr std::uint32_t kReadBytes = 256 * 8 * 16;  // of a block

__global__ void __launch_bounds__(256) read_kernel(const std::byte* from, std::uint32_t* never) {
  let_successor_start();
  const std::byte* at = from + std::size_t{blockIdx.x} * kReadBytes + 16 * threadIdx.x;
  uint4 v[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = load_once(at + 256 * 16 * i);
  wait_for_predecessor();
  std::uint32_t all = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) all |= v[i].x | v[i].y | v[i].z | v[i].w;
  if (all == 0) *never = 1;
}
__global__ void __launch_bounds__(256) empty_kernel() {
  let_successor_start();
  wait_for_predecessor();
}

}  // namespace

std::span<const Way<Q8Products>> q8_ways() {
  return kQ8Ways;
}

void only_read(Launcher& launcher, const std::byte* from, std::uint64_t bytes,
               std::uint32_t* never) {
  launch(launcher, read_kernel, dim3(static_cast<unsigned>(bytes / kReadBytes)), 256, 0, 1, from,
         never);
}
void nothing(Launcher& launcher, unsigned blocks) {
  launch(launcher, empty_kernel, dim3(blocks), 256, 0, 1);
}

}  // namespace ds4::bench
