#pragma once
// What every kernel here needs: launching behind a predecessor, warp sums, asynchronous copies and
// the matrix instruction.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "engine/cuda/kernels/launch.h"

namespace ds4::cuda {

inline constexpr unsigned kFullWarp = 0xFFFFFFFFu;
inline constexpr int kWarp = 32;

// Kernels start while their predecessor still runs. They may read weights at once, and everything
// else only behind wait_for_predecessor(), which every kernel calls: so when a kernel has finished,
// all before it have.
__device__ __forceinline__ void wait_for_predecessor() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
__device__ __forceinline__ void let_successor_start() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, step));
  return x;
}

/// The sum over a block of whole warps, the same in every thread. `scratch` holds 33 floats.
__device__ inline float block_sum(float x, float* scratch) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  x = warp_sum(x);
  __syncthreads();  // of an earlier use of the scratch
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  if (warp == 0) {
    const float all = warp_sum(lane < blockDim.x / kWarp ? scratch[lane] : 0.0f);
    if (lane == 0) scratch[32] = all;
  }
  __syncthreads();
  return scratch[32];
}

__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void copy16_async(std::uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copy16_async(void* to, const void* from) {
  copy16_async(shared_address(to), from);
}
__device__ __forceinline__ void copy4_async(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most `kLeft` of the committed groups are under way.
template <int kLeft>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

/// c += a * b for 16x16 by 16x8. With g = lane / 4 and t = lane % 4, a holds rows g and g + 8 at
/// columns 2t, 2t + 1 and then at 2t + 8, 2t + 9; b those rows of column g; c rows g and g + 8 of
/// columns 2t and 2t + 1.
__device__ __forceinline__ void multiply_add(float (&c)[4], const std::uint32_t (&a)[4],
                                             std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row)));
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row)));
}

__device__ __forceinline__ std::uint32_t bits(__half2 x) {
  return *reinterpret_cast<std::uint32_t*>(&x);
}
__device__ __forceinline__ __half2 as_half2(std::uint32_t x) {
  return *reinterpret_cast<__half2*>(&x);
}

// ---------------------------------------------------------------------------------------------
// Launching

/// Whether a block of the current device may have so much: 227 KiB on Hopper, 99 KiB on GB10.
inline bool fits_shared(std::size_t bytes) {
  int device = 0, most = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return bytes <= static_cast<std::size_t>(most);
}

/// Of the current device.
inline std::uint32_t multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return static_cast<std::uint32_t>(count > 0 ? count : 1);
}

/// Remembers the first error in `launcher`; launches nothing behind one.
template <typename... Params, typename... Args>
void launch(Launcher& launcher, void (*kernel)(Params...), dim3 grid, unsigned threads,
            std::size_t shared_bytes, unsigned cluster, Args&&... args) {
  if (launcher.error != cudaSuccess || grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  constexpr std::size_t kWithoutAsking = 48 << 10;
  if (shared_bytes > kWithoutAsking) {
    launcher.error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                          cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          static_cast<int>(shared_bytes));
    if (launcher.error != cudaSuccess) return;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = launcher.stream;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = launcher.overlap ? 1 : 0;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {cluster, 1, 1};
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 2 : 1;
  launcher.error = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
  if (launcher.observer != nullptr) launcher.observe();
}

}  // namespace ds4::cuda
