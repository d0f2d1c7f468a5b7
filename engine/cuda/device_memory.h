#pragma once
// Owner of one range of device addresses with memory behind all of it. Move-only.
//
// CUDA's virtual memory calls keep addresses and memory apart: a range of addresses is reserved,
// handles of memory are created (or imported from a descriptor), and mapped into it back to back. A
// handle's memory lives as long as anything refers to it: a mapping, the handle, or a descriptor
// that some process holds, even one without a GPU context.
#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/result.h"
#include "engine/base/unique_fd.h"

namespace ds4::cuda {

/// What `device` rounds allocations to.
Result<std::uint64_t> allocation_granularity(int device);

class DeviceMemory {
 public:
  /// New memory in handles of these sizes (multiples of the granularity), exportable as
  /// descriptors. Errors: kResourceExhausted with the figures if the device has not that much free.
  static Result<DeviceMemory> allocate(int device, std::span<const std::uint64_t> handle_bytes);
  /// The memory behind descriptors that share() made, of the sizes it then had. The descriptors
  /// stay the caller's. Errors: kMismatch or kInternal if they are not such memory of `device`.
  static Result<DeviceMemory> import(int device, std::span<const int> fds,
                                     std::span<const std::uint64_t> handle_bytes);

  DeviceMemory() = default;
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  ~DeviceMemory();

  /// One new descriptor for each handle.
  Result<std::vector<UniqueFd>> share() const;

  std::byte* data() const { return reinterpret_cast<std::byte*>(address_); }  // on the device
  std::uint64_t bytes() const { return reserved_bytes_; }

 private:
  struct Handle {
    CUmemGenericAllocationHandle id = 0;
    std::uint64_t bytes = 0;
    bool mapped = false;
  };
  Result<void> reserve(std::uint64_t bytes);
  Result<void> map_all();

  int device_ = 0;
  CUdeviceptr address_ = 0;
  std::uint64_t reserved_bytes_ = 0;
  std::vector<Handle> handles_;
};

}  // namespace ds4::cuda
