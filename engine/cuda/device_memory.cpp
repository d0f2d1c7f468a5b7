#include "engine/cuda/device_memory.h"

#include <fmt/format.h>

#include <cassert>
#include <numeric>
#include <utility>

#include "engine/cuda/driver.h"

namespace ds4::cuda {
namespace {

CUmemAllocationProp properties(int device) {
  CUmemAllocationProp wanted = {};
  wanted.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  wanted.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  wanted.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  wanted.location.id = device;
  return wanted;
}

std::uint64_t sum(std::span<const std::uint64_t> sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::uint64_t{0});
}

/// What can be known before the first byte; creating the handles may still fail.
Result<void> check_free(std::uint64_t wanted_bytes) {
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  DS4_CUDA_TRY(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  if (wanted_bytes <= free_bytes) return {};
  constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
  return fail(
      ErrorCode::kResourceExhausted,
      fmt::format("{:.2f} GiB of device memory are needed, and of the device's {:.2f} GiB "
                  "{:.2f} GiB are free; take fewer layers, or end what uses the rest",
                  static_cast<double>(wanted_bytes) / kGiB, static_cast<double>(total_bytes) / kGiB,
                  static_cast<double>(free_bytes) / kGiB));
}

}  // namespace

Result<std::uint64_t> allocation_granularity(int device) {
  DS4_ASSIGN(const Driver* const driver, Driver::get());
  const CUmemAllocationProp wanted = properties(device);
  std::size_t bytes = 0;
  DS4_DRIVER_TRY(driver->mem_granularity(&bytes, &wanted, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                 "cuMemGetAllocationGranularity");
  return bytes;
}

Result<void> DeviceMemory::reserve(std::uint64_t bytes) {
  DS4_ASSIGN(const Driver* const driver, Driver::get());
  DS4_DRIVER_TRY(driver->mem_address_reserve(&address_, bytes, 0, 0, 0),
                 fmt::format("reserve {} bytes of device addresses", bytes));
  reserved_bytes_ = bytes;
  return {};
}

Result<void> DeviceMemory::map_all() {
  DS4_ASSIGN(const Driver* const driver, Driver::get());
  CUdeviceptr at = address_;
  for (Handle& handle : handles_) {
    DS4_DRIVER_TRY(driver->mem_map(at, handle.bytes, 0, handle.id, 0),
                   fmt::format("map {} bytes of device memory", handle.bytes));
    handle.mapped = true;
    at += handle.bytes;
  }
  CUmemAccessDesc access = {};
  access.location = properties(device_).location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  DS4_DRIVER_TRY(driver->mem_set_access(address_, reserved_bytes_, &access, 1),
                 fmt::format("open {} bytes of device memory to the device", reserved_bytes_));
  return {};
}

Result<DeviceMemory> DeviceMemory::allocate(int device,
                                            std::span<const std::uint64_t> handle_bytes) {
  DS4_CUDA_TRY(cudaSetDevice(device), fmt::format("use device {}", device));
  DS4_TRY(check_free(sum(handle_bytes)));
  DS4_ASSIGN(const Driver* const driver, Driver::get());
  DeviceMemory memory;  // from here on, an error on the way frees what there is
  memory.device_ = device;
  DS4_TRY(memory.reserve(sum(handle_bytes)));
  const CUmemAllocationProp wanted = properties(device);
  std::uint64_t got_bytes = 0;
  for (const std::uint64_t bytes : handle_bytes) {
    Handle handle{0, bytes, false};
    DS4_DRIVER_TRY(driver->mem_create(&handle.id, bytes, &wanted, 0),
                   fmt::format("allocate {} bytes of device memory, {} of {} being there", bytes,
                               got_bytes, memory.reserved_bytes_));
    memory.handles_.push_back(handle);
    got_bytes += bytes;
  }
  DS4_TRY(memory.map_all());
  return memory;
}

Result<DeviceMemory> DeviceMemory::import(int device, std::span<const int> fds,
                                          std::span<const std::uint64_t> handle_bytes) {
  assert(fds.size() == handle_bytes.size());
  DS4_CUDA_TRY(cudaSetDevice(device), fmt::format("use device {}", device));
  DS4_ASSIGN(const Driver* const driver, Driver::get());
  DeviceMemory memory;
  memory.device_ = device;
  DS4_TRY(memory.reserve(sum(handle_bytes)));
  for (std::size_t i = 0; i < fds.size(); ++i) {
    Handle handle{0, handle_bytes[i], false};
    DS4_DRIVER_TRY(
        driver->mem_import(&handle.id, reinterpret_cast<void*>(static_cast<std::intptr_t>(fds[i])),
                           CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
        fmt::format("take over the device memory behind descriptor {} of {}", i + 1, fds.size()));
    memory.handles_.push_back(handle);
  }
  DS4_TRY(memory.map_all());
  return memory;
}

Result<std::vector<UniqueFd>> DeviceMemory::share() const {
  DS4_ASSIGN(const Driver* const driver, Driver::get());
  std::vector<UniqueFd> fds;
  for (const Handle& handle : handles_) {
    int fd = -1;
    DS4_DRIVER_TRY(driver->mem_export(&fd, handle.id, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                   fmt::format("export {} bytes of device memory", handle.bytes));
    fds.emplace_back(fd);
  }
  return fds;
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : device_(other.device_),
      address_(std::exchange(other.address_, 0)),
      reserved_bytes_(std::exchange(other.reserved_bytes_, 0)),
      handles_(std::exchange(other.handles_, {})) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(address_, other.address_);
  std::swap(reserved_bytes_, other.reserved_bytes_);
  std::swap(handles_, other.handles_);
  return *this;
}

DeviceMemory::~DeviceMemory() {
  if (reserved_bytes_ == 0) return;
  const auto driver = Driver::get();
  if (!driver) return;
  cudaSetDevice(device_);  // of this thread; nothing can be done here about errors
  CUdeviceptr at = address_;
  for (const Handle& handle : handles_) {
    if (handle.mapped) (*driver)->mem_unmap(at, handle.bytes);
    (*driver)->mem_release(handle.id);
    at += handle.bytes;
  }
  (*driver)->mem_address_free(address_, reserved_bytes_);
}

}  // namespace ds4::cuda
