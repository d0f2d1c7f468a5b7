#include "engine/cuda/device_memory.h"

#include <fmt/format.h>

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

}  // namespace

Result<void> check_free(int device, std::uint64_t wanted_bytes) {
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  DS4_CUDA_TRY(cudaSetDevice(device), fmt::format("use device {}", device));
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

Result<std::uint64_t> allocation_granularity(int device) {
  DS4_ASSIGN(const Driver* const driver, Driver::get());
  const CUmemAllocationProp wanted = properties(device);
  std::size_t bytes = 0;
  DS4_DRIVER_TRY(driver->mem_granularity(&bytes, &wanted, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                 "cuMemGetAllocationGranularity");
  return bytes;
}

Result<DeviceMemory> DeviceMemory::map(int device, CUmemGenericAllocationHandle handle,
                                       std::uint64_t bytes) {
  DeviceMemory memory;  // from here on, an error on the way frees what there is
  memory.device_ = device;
  memory.handle_ = handle;
  memory.bytes_ = bytes;
  DS4_ASSIGN(const Driver* const driver, Driver::get());
  DS4_DRIVER_TRY(driver->mem_address_reserve(&memory.address_, bytes, 0, 0, 0),
                 fmt::format("reserve {} bytes of device addresses", bytes));
  DS4_DRIVER_TRY(driver->mem_map(memory.address_, bytes, 0, handle, 0),
                 fmt::format("map {} bytes of device memory", bytes));
  memory.mapped_ = true;
  CUmemAccessDesc access = {};
  access.location = properties(device).location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  DS4_DRIVER_TRY(driver->mem_set_access(memory.address_, bytes, &access, 1),
                 fmt::format("open {} bytes of device memory to the device", bytes));
  return memory;
}

Result<DeviceMemory> DeviceMemory::allocate(int device, std::uint64_t bytes) {
  DS4_CUDA_TRY(cudaSetDevice(device), fmt::format("use device {}", device));
  DS4_ASSIGN(const Driver* const driver, Driver::get());
  const CUmemAllocationProp wanted = properties(device);
  CUmemGenericAllocationHandle handle = 0;
  DS4_DRIVER_TRY(driver->mem_create(&handle, bytes, &wanted, 0),
                 fmt::format("allocate {} bytes of device memory", bytes));
  return map(device, handle, bytes);
}

Result<DeviceMemory> DeviceMemory::import(int device, int fd, std::uint64_t bytes) {
  DS4_CUDA_TRY(cudaSetDevice(device), fmt::format("use device {}", device));
  DS4_ASSIGN(const Driver* const driver, Driver::get());
  CUmemGenericAllocationHandle handle = 0;
  DS4_DRIVER_TRY(
      driver->mem_import(&handle, reinterpret_cast<void*>(static_cast<std::intptr_t>(fd)),
                         CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
      "take over the device memory behind a descriptor");
  return map(device, handle, bytes);
}

Result<UniqueFd> DeviceMemory::share() const {
  DS4_ASSIGN(const Driver* const driver, Driver::get());
  int fd = -1;
  DS4_DRIVER_TRY(driver->mem_export(&fd, handle_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                 fmt::format("export {} bytes of device memory", bytes_));
  return UniqueFd(fd);
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : device_(other.device_),
      handle_(other.handle_),
      bytes_(std::exchange(other.bytes_, 0)),
      address_(std::exchange(other.address_, 0)),
      mapped_(std::exchange(other.mapped_, false)) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(handle_, other.handle_);
  std::swap(bytes_, other.bytes_);
  std::swap(address_, other.address_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

DeviceMemory::~DeviceMemory() {
  if (bytes_ == 0) return;
  const auto driver = Driver::get();
  if (!driver) return;
  cudaSetDevice(device_);  // of this thread; nothing can be done here about errors
  if (mapped_) (*driver)->mem_unmap(address_, bytes_);
  if (address_ != 0) (*driver)->mem_address_free(address_, bytes_);
  (*driver)->mem_release(handle_);
}

}  // namespace ds4::cuda
