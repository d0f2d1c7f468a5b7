#pragma once
// Owners of plain CUDA memory: on the device, and pinned on the host. Move-only.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstdint>
#include <memory>

#include "engine/cuda/driver.h"

namespace ds4::cuda {

template <typename T, cudaError_t (*kFree)(void*)>
class CudaBuffer {
 public:
  CudaBuffer() = default;
  CudaBuffer(T* data, std::size_t count) : data_(data), count_(count) {}

  T* data() const { return data_.get(); }
  std::size_t size() const { return count_; }

 private:
  struct Free {
    void operator()(T* p) const { kFree(p); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t count_ = 0;
};

template <typename T>
using DeviceBuffer = CudaBuffer<T, cudaFree>;
template <typename T>
using PinnedBuffer = CudaBuffer<T, cudaFreeHost>;

/// `count` elements on the current device, not cleared. kResourceExhausted names `what`.
template <typename T>
Result<DeviceBuffer<T>> device_buffer(std::size_t count, std::string_view what) {
  void* data = nullptr;
  DS4_CUDA_TRY(cudaMalloc(&data, count * sizeof(T)),
               fmt::format("allocate {} bytes of device memory for {}", count * sizeof(T), what));
  return DeviceBuffer<T>(static_cast<T*>(data), count);
}
template <typename T>
Result<PinnedBuffer<T>> pinned_buffer(std::size_t count, std::string_view what) {
  void* data = nullptr;
  DS4_CUDA_TRY(cudaMallocHost(&data, count * sizeof(T)),
               fmt::format("pin {} bytes of memory for {}", count * sizeof(T), what));
  return PinnedBuffer<T>(static_cast<T*>(data), count);
}

}  // namespace ds4::cuda
