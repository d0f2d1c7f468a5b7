#pragma once
// Owner of device memory, mapped at addresses of its own. Move-only.
//
// CUDA's virtual memory calls keep addresses and memory apart: a range of addresses is reserved, a
// handle of memory is created (or imported from a descriptor) and mapped there. The memory lives as
// long as anything refers to it: a mapping, the handle, or a descriptor that some process holds,
// even one that knows nothing of GPUs.
#include <cuda.h>

#include <cstddef>
#include <cstdint>

#include "engine/base/result.h"
#include "engine/base/unique_fd.h"

namespace ds4::cuda {

/// What `device` rounds allocations to.
Result<std::uint64_t> allocation_granularity(int device);

/// Errors: kResourceExhausted with the figures if the device has not that much free.
Result<void> check_free(int device, std::uint64_t wanted_bytes);

class DeviceMemory {
 public:
  /// New memory that can be exported; `bytes` a multiple of the granularity.
  static Result<DeviceMemory> allocate(int device, std::uint64_t bytes);
  /// The memory behind a descriptor that share() made, of the size it then had. The descriptor
  /// stays the caller's. An error if it is not such memory of `device`.
  static Result<DeviceMemory> import(int device, int fd, std::uint64_t bytes);

  DeviceMemory() = default;
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  ~DeviceMemory();

  /// A descriptor that keeps the memory alive.
  Result<UniqueFd> share() const;

  std::byte* data() const { return reinterpret_cast<std::byte*>(address_); }  // on the device
  std::uint64_t bytes() const { return bytes_; }

 private:
  /// Takes ownership of `handle`.
  static Result<DeviceMemory> map(int device, CUmemGenericAllocationHandle handle,
                                  std::uint64_t bytes);

  int device_ = 0;
  CUmemGenericAllocationHandle handle_ = 0;
  std::uint64_t bytes_ = 0;  // 0: nothing is owned
  CUdeviceptr address_ = 0;  // 0: none reserved
  bool mapped_ = false;
};

}  // namespace ds4::cuda
