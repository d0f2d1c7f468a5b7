#include "engine/cuda/driver.h"

#include <fmt/format.h>

#include <string>

namespace ds4::cuda {
namespace {

template <typename Function>
Result<void> resolve(const char* name, Function& function) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult status = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &address, 13000, cudaEnableDefault, &status);
  if (error != cudaSuccess || status != cudaDriverEntryPointSuccess || address == nullptr) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("the CUDA driver has no {}; install a driver for CUDA 13", name));
  }
  function = reinterpret_cast<Function>(address);
  return {};
}

Result<Driver> resolve_all() {
  Driver driver;
  DS4_TRY(resolve("cuMemCreate", driver.mem_create));
  DS4_TRY(resolve("cuMemRelease", driver.mem_release));
  DS4_TRY(resolve("cuMemAddressReserve", driver.mem_address_reserve));
  DS4_TRY(resolve("cuMemAddressFree", driver.mem_address_free));
  DS4_TRY(resolve("cuMemMap", driver.mem_map));
  DS4_TRY(resolve("cuMemUnmap", driver.mem_unmap));
  DS4_TRY(resolve("cuMemSetAccess", driver.mem_set_access));
  DS4_TRY(resolve("cuMemGetAllocationGranularity", driver.mem_granularity));
  DS4_TRY(resolve("cuMemExportToShareableHandle", driver.mem_export));
  DS4_TRY(resolve("cuMemImportFromShareableHandle", driver.mem_import));
  DS4_TRY(resolve("cuGetErrorString", driver.error_string));
  return driver;
}

}  // namespace

Result<const Driver*> Driver::get() {
  static const Result<Driver> driver = resolve_all();
  if (!driver) return tl::unexpected(driver.error());
  return &*driver;
}

namespace {

ErrorCode code_of(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return ErrorCode::kResourceExhausted;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorNotSupported:
      return ErrorCode::kUnsupported;
    // These stay with the process's context: every later call gives the same one.
    case cudaErrorAssert:
    case cudaErrorDevicesUnavailable:
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorMisalignedAddress:
    case cudaErrorSystemNotReady:
    case cudaErrorUnknown:
      return ErrorCode::kUnavailable;
    default:
      return ErrorCode::kInternal;
  }
}

}  // namespace

tl::unexpected<Error> fail_cuda(cudaError_t error, std::string_view doing) {
  static_cast<void>(cudaGetLastError());  // reported here, so not once more by the next call
  return fail(code_of(error), fmt::format("{}: {}", doing, cudaGetErrorString(error)));
}

std::optional<std::string> device_failure(int device) {
  cudaError_t error = cudaSetDevice(device);
  if (error == cudaSuccess) error = cudaStreamQuery(cudaStreamLegacy);
  if (error == cudaSuccess || error == cudaErrorNotReady) return std::nullopt;
  static_cast<void>(cudaGetLastError());
  if (code_of(error) != ErrorCode::kUnavailable) return std::nullopt;
  return fmt::format("GPU {} failed ({}) and computes nothing more for this process: restart it",
                     device, cudaGetErrorString(error));
}

tl::unexpected<Error> fail_driver(CUresult error, std::string_view doing) {
  const char* text = nullptr;
  if (const auto driver = Driver::get()) (*driver)->error_string(error, &text);
  const ErrorCode code = error == CUDA_ERROR_OUT_OF_MEMORY    ? ErrorCode::kResourceExhausted
                         : error == CUDA_ERROR_NOT_SUPPORTED  ? ErrorCode::kUnsupported
                         : error == CUDA_ERROR_INVALID_HANDLE ? ErrorCode::kMismatch
                                                              : ErrorCode::kInternal;
  return fail(code, fmt::format("{}: {} (CUDA error {})", doing, text != nullptr ? text : "unknown",
                                static_cast<int>(error)));
}

}  // namespace ds4::cuda
