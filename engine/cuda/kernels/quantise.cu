// Rows of halves or floats become integers; see quantised_rows.h.
#include "engine/cuda/kernels/quantised.cuh"

namespace ds4::cuda {
namespace {

constexpr unsigned kThreads = 256, kWarps = kThreads / kWarp;

__device__ __forceinline__ void load8_values(const __half* x, float (&v)[8]) {
  const uint4 in = *reinterpret_cast<const uint4*>(x);
  const std::uint32_t pairs[4] = {in.x, in.y, in.z, in.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = __half22float2(as_half2(pairs[i]));
    v[2 * i] = two.x, v[2 * i + 1] = two.y;
  }
}
__device__ __forceinline__ void load8_values(const float* x, float (&v)[8]) {
  const float4 a = reinterpret_cast<const float4*>(x)[0], b = reinterpret_cast<const float4*>(x)[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
  v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

/// A warp has 256 columns of a row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    quantise_kernel(const T* x, std::uint32_t x_stride, std::uint32_t n, std::uint32_t cols,
                    const __grid_constant__ QuantisedRows out) {
  let_successor_start();
  wait_for_predecessor();
  const std::uint32_t warps_per_row = (cols + kSumBlockColumns - 1) / kSumBlockColumns;
  const std::uint32_t warp = blockIdx.x * kWarps + threadIdx.x / kWarp;
  const std::uint32_t row = warp / warps_per_row;
  if (row >= n) return;
  const std::uint32_t column = warp % warps_per_row * kSumBlockColumns + 8 * (threadIdx.x % kWarp);
  float v[8] = {};
  if (column < cols) load8_values(x + std::size_t{row} * x_stride + column, v);
  quantise8(v, out, row, column, cols);
}

template <typename T>
void run(Launcher& launcher, const T* x, std::uint32_t x_stride, std::uint32_t n,
         std::uint32_t cols, const QuantisedRows& out) {
  const std::uint32_t warps = n * ((cols + kSumBlockColumns - 1) / kSumBlockColumns);
  launch(launcher, quantise_kernel<T>, dim3((warps + kWarps - 1) / kWarps), kThreads, 0, 1, x,
         x_stride, n, cols, out);
}

}  // namespace

void quantise_rows(Launcher& launcher, const __half* x, std::uint32_t x_stride, std::uint32_t n,
                   std::uint32_t cols, const QuantisedRows& out) {
  run(launcher, x, x_stride, n, cols, out);
}

void quantise_rows(Launcher& launcher, const float* x, std::uint32_t x_stride, std::uint32_t n,
                   std::uint32_t cols, const QuantisedRows& out) {
  run(launcher, x, x_stride, n, cols, out);
}

}  // namespace ds4::cuda
