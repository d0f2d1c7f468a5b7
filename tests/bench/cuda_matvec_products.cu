#include "engine/cuda/kernels/one_row.cuh"
#include "tests/bench/cuda_matvec_variants.h"

namespace ds4::bench {
namespace {

using namespace ds4::cuda;

// Products of Q8_0 ----------------------------------------------------------------------------

/// kMultiply false: only copies.
template <int kWarps, int kChunks, bool kMultiply>
__global__ void __launch_bounds__(kWarps* kWarp)
    q8_products(const __grid_constant__ Q8Products list) {
  extern __shared__ __align__(128) std::uint8_t base[];
  __shared__ PhaseBarrier barrier[kWarps];
  __shared__ float sums[kWarps][kChunks * kChunkSegments];
  let_successor_start();
  const Q8Split split{list.cols};
  const std::uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::uint32_t across = split.across(), of_chunk = split.rows_of_chunk();
  const std::uint32_t of_warp = kChunks * of_chunk, of_block = kWarps / across * of_warp;
  const std::uint32_t item = blockIdx.x * of_block / list.rows;
  const std::uint32_t first = blockIdx.x * of_block % list.rows, row_bytes = list.cols / 32 * 34;
  Q8Chunks<kChunks> chunks;
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
    list.y[item][first + r] = split.total<kChunks>(sums[r / of_warp * across], r % of_warp);
}

template <int kWarps, int kChunks, bool kMultiply = true>
void run_q8(Launcher& launcher, const Q8Products& list) {
  const Q8Split split{list.cols};
  const std::uint32_t of_block = kWarps / split.across() * kChunks * split.rows_of_chunk();
  launch(launcher, q8_products<kWarps, kChunks, kMultiply>, dim3(list.rows * list.count / of_block),
         kWarps * kWarp, kWarps * kChunks * kChunkBytes, 1, list);
}
constexpr Q8Way kQ8Ways[] = {{"4 warps, 4 chunks each", run_q8<4, 4>},
                             {"8 warps, 8 chunks each", run_q8<8, 8>},
                             {"8 warps, 4 chunks each, only copied", run_q8<8, 4, false>, false}};

// Only reading --------------------------------------------------------------------------------

constexpr std::uint32_t kReadBytes = 256 * 8 * 16;  // of a block

__device__ __forceinline__ uint4 load_once(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
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

std::span<const Q8Way> q8_ways() {
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
