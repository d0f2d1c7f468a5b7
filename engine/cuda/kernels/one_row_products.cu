// Products of Q8_0 and F16 with one row: one launch for several matrices of one length.
#include <bit>
#include <vector>

#include "engine/cuda/kernels/one_row.cuh"
#include "engine/cuda/kernels/one_row.h"

namespace ds4::cuda {
namespace {

constexpr int kChunks = 4;  // of a warp
constexpr std::uint32_t kWarpBytes = kChunks * kChunkBytes;

struct ProductList {
  Product item[kMostProducts];
  std::uint32_t first_block[kMostProducts + 1];
};

__host__ __device__ bool is_q8(const DeviceMatrix& weights) {
  return weights.type == static_cast<std::uint32_t>(TensorType::kQ8_0);
}

// F16: a warp has a segment of eight rows.
constexpr std::uint32_t kHalfRows = 8, kSegmentBytes = 2 * kSegment;
constexpr std::uint32_t kHalfPitch = kSegmentBytes + 64;  // rows read together lie in other banks
static_assert(kHalfRows * kHalfPitch <= kWarpBytes);

/// Rows of a block of so many warps.
__host__ __device__ std::uint32_t rows_of_block(const DeviceMatrix& weights, std::uint32_t warps) {
  if (!is_q8(weights)) return warps / (weights.cols / kSegment) * kHalfRows;
  const Q8Split split{weights.cols};
  return warps / split.across() * kChunks * split.rows_of_chunk();
}

__device__ __forceinline__ void start_halves(std::uint8_t* place, PhaseBarrier& barrier,
                                             const DeviceMatrix& weights, std::uint32_t first,
                                             std::uint32_t segment) {
  if (threadIdx.x % kWarp != 0) return;
  barrier.expect(kHalfRows * kSegmentBytes);
  for (std::uint32_t r = 0; r < kHalfRows; ++r)
    barrier.bulk_copy(place + r * kHalfPitch,
                      weights.data + (first + r) * weights.row_bytes + segment * kSegmentBytes,
                      kSegmentBytes);
}
/// As HalfTile in multiply.cuh, with nothing in the lower rows of the instruction.
__device__ __forceinline__ void multiply_halves(const std::uint8_t* place, PhaseBarrier& barrier,
                                                const __half* x, float* sums) {
  constexpr std::uint32_t kAtOnce = 8;
  const std::uint32_t lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const auto* w = reinterpret_cast<const uint4*>(place + g * kHalfPitch) + t;
  const auto* in = reinterpret_cast<const uint4*>(x) + t;
  float acc[4] = {};
#pragma unroll 1
  for (std::uint32_t first = 0; first < kSegment / 32; first += kAtOnce) {
    uint4 b[kAtOnce];
#pragma unroll
    for (std::uint32_t i = 0; i < kAtOnce; ++i) b[i] = in[4 * (first + i)];
    if (first == 0) wait_for_bytes(barrier);
#pragma unroll
    for (std::uint32_t i = 0; i < kAtOnce; ++i) {
      const uint4 u = w[4 * (first + i)];
      multiply_add(acc, {u.x, 0, u.y, 0}, b[i].x, b[i].y);
      multiply_add(acc, {u.z, 0, u.w, 0}, b[i].z, b[i].w);
    }
  }
  if (t == 0) sums[g] = acc[0];
}

template <int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp)
    one_row_kernel(const __grid_constant__ ProductList list) {
  extern __shared__ __align__(128) std::uint8_t base[];
  __shared__ PhaseBarrier barrier[kWarps];
  __shared__ float sums[kWarps][kChunks * kChunkSegments];
  let_successor_start();
  std::uint32_t which = 0;
  while (blockIdx.x >= list.first_block[which + 1]) ++which;
  const Product& item = list.item[which];
  const DeviceMatrix& weights = item.weights;
  const bool q8 = is_q8(weights);
  const Q8Split split{weights.cols};
  const std::uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::uint32_t across = q8 ? split.across() : weights.cols / kSegment;
  const std::uint32_t of_chunk = split.rows_of_chunk();
  const std::uint32_t of_warp = q8 ? kChunks * of_chunk : kHalfRows;
  const std::uint32_t of_block = kWarps / across * of_warp;
  const std::uint32_t first = (blockIdx.x - list.first_block[which]) * of_block;
  const std::uint32_t my_first = first + warp / across * of_warp, part = warp % across;
  std::uint8_t* place = base + warp * kWarpBytes;
  Q8Chunks<kChunks> chunks;
  if (q8)
    chunks.start(place, barrier[warp], [&](std::uint32_t c) {
      return reinterpret_cast<const std::uint8_t*>(weights.data) +
             (my_first + c * of_chunk) * weights.row_bytes + part * kChunkBytes;
    });
  else
    start_halves(place, barrier[warp], weights, my_first, part);
  wait_for_predecessor();
  if (q8)
    chunks.multiply(barrier[warp], item.integers,
                    part * kChunkCols + lane % (kWarp / of_chunk) * 64, sums[warp]);
  else
    multiply_halves(place, barrier[warp], item.x + part * kSegment, sums[warp]);
  __syncthreads();
  for (std::uint32_t r = threadIdx.x; r < of_block; r += kWarps * kWarp) {
    const float* of_rows = sums[r / of_warp * across];
    float value = 0;
    if (q8)
      value = split.total<kChunks>(of_rows, r % of_warp);
    else
      for (std::uint32_t s = 0; s < across; ++s)
        value = __fadd_rn(value, of_rows[s * (kChunks * kChunkSegments) + r % kHalfRows]);
    if (item.y_integers.hi != nullptr)
      quantise_lane(__half2float(__float2half_rn(value)), item.y_integers, 0u, first + r);
    if (item.y == nullptr) continue;
    if (item.half_out)
      static_cast<__half*>(item.y)[first + r] = __float2half_rn(value);
    else
      static_cast<float*>(item.y)[first + r] = value;
  }
}

template <int kWarps>
void run(Launcher& launcher, std::span<const Product> products) {
  ProductList list{};
  for (std::size_t i = 0; i < kMostProducts; ++i) {
    list.first_block[i + 1] = list.first_block[i];
    if (i >= products.size()) continue;
    list.item[i] = products[i];
    list.first_block[i + 1] +=
        products[i].weights.rows / rows_of_block(products[i].weights, kWarps);
  }
  launch(launcher, one_row_kernel<kWarps>, dim3(list.first_block[kMostProducts]), kWarps * kWarp,
         kWarps * kWarpBytes, 1, list);
}

/// What becomes integers must have 32 rows in one block.
constexpr std::uint32_t kMostWarps = 16;
std::uint32_t warps_for(const Product& product) {
  return product.y_integers.hi != nullptr ? kMostWarps : 8;
}

}  // namespace

bool one_row_supports(const Launcher& launcher, const Product& p) {
  const bool q8 = one_row_reads(p.weights, TensorType::kQ8_0);
  if (!q8 && !one_row_reads(p.weights, TensorType::kF16)) return false;
  const bool to_integers = p.y_integers.hi != nullptr;
  const std::uint32_t cols = p.weights.cols, most_cols = q8 ? 8192 : 4096;
  if (!std::has_single_bit(cols) || cols < 1024 || cols > most_cols || (!q8 && to_integers))
    return false;
  const std::uint32_t rows = rows_of_block(p.weights, warps_for(p));
  return p.weights.rows % rows == 0 && (!to_integers || rows % kQuantColumns == 0) &&
         one_row_has_room(launcher, kMostWarps * kWarpBytes);
}

void run_one_row(Launcher& launcher, std::span<const Product> products) {
  std::vector<Product> others, to_integers;
  for (const Product& p : products)
    (warps_for(p) == kMostWarps ? to_integers : others).push_back(p);
  if (!others.empty()) run<8>(launcher, others);
  if (!to_integers.empty()) run<kMostWarps>(launcher, to_integers);
}

}  // namespace ds4::cuda
