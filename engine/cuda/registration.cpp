#include "engine/cuda/registration.h"

#include <fmt/format.h>

#include <utility>

#include "engine/cuda/driver.h"

namespace ds4::cuda {

Result<std::unique_ptr<Registration>> Registration::make(int device, const std::byte* host,
                                                         std::uint64_t bytes) {
  DS4_CUDA_TRY(cudaSetDevice(device), fmt::format("use device {}", device));
  void* const at = const_cast<std::byte*>(host);  // mapped read-only, for the GPU as well
  DS4_CUDA_TRY(cudaHostRegister(at, bytes, cudaHostRegisterMapped | cudaHostRegisterReadOnly),
               fmt::format("register {} bytes of host memory", bytes));
  std::unique_ptr<Registration> made(new Registration(device, at));
  void* device_address = nullptr;
  DS4_CUDA_TRY(cudaHostGetDevicePointer(&device_address, at, 0), "cudaHostGetDevicePointer");
  made->device_distance_ = static_cast<const std::byte*>(device_address) - host;
  return made;
}

Registration::~Registration() {
  cudaSetDevice(device_);  // of this thread; nothing can be done here about errors
  cudaHostUnregister(host_);
}

Result<std::shared_ptr<const Registration>> RegistrationSet::hold(const std::byte* host,
                                                                  std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  auto found = held_.find(host);
  if (found == held_.end()) {
    DS4_ASSIGN(auto made, Registration::make(device_, host, bytes));
    found = held_.emplace(host, Held{std::move(made), 0}).first;
  }
  ++found->second.holders;
  return std::shared_ptr<const Registration>(
      found->second.registration.get(),
      [set = shared_from_this(), host](const Registration*) { set->let_go(host); });
}

void RegistrationSet::let_go(const std::byte* host) {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(host);
  if (--found->second.holders == 0) held_.erase(found);
}

}  // namespace ds4::cuda
