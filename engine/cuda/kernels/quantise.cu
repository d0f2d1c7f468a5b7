// Rows of halves or floats become integers; see quantised_rows.h.
#include "engine/cuda/kernels/quantised.cuh"

namespace ds4::cuda {
namespace {

constexpr unsigned kThreads = 256, kWarps = kThreads / kWarp;

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
