#pragma once
// The CUDA driver's virtual memory calls, and CUDA's errors as ours.
//
// The runtime is linked in statically and finds the driver by itself. The driver calls that the
// runtime does not wrap are asked of it too, so that nothing here needs libcuda.so to be linked or
// even loaded: without a driver, device calls fail with a sentence.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <optional>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace ds4::cuda {

struct Driver {
  decltype(&::cuMemCreate) mem_create = nullptr;
  decltype(&::cuMemRelease) mem_release = nullptr;
  decltype(&::cuMemAddressReserve) mem_address_reserve = nullptr;
  decltype(&::cuMemAddressFree) mem_address_free = nullptr;
  decltype(&::cuMemMap) mem_map = nullptr;
  decltype(&::cuMemUnmap) mem_unmap = nullptr;
  decltype(&::cuMemSetAccess) mem_set_access = nullptr;
  decltype(&::cuMemGetAllocationGranularity) mem_granularity = nullptr;
  decltype(&::cuMemExportToShareableHandle) mem_export = nullptr;
  decltype(&::cuMemImportFromShareableHandle) mem_import = nullptr;
  decltype(&::cuGetErrorString) error_string = nullptr;

  /// Errors: kUnsupported if a call is missing.
  static Result<const Driver*> get();
};

/// `doing: <CUDA's text>`; kResourceExhausted for a lack of memory, kUnavailable for a device that
/// failed or went away, else kInternal.
tl::unexpected<Error> fail_cuda(cudaError_t error, std::string_view doing);
tl::unexpected<Error> fail_driver(CUresult error, std::string_view doing);
/// Why the device computes nothing more for this process, if that is so. Asks it, which takes a
/// microsecond or two.
std::optional<std::string> device_failure(int device);

/// Returns from the enclosing function if a runtime call failed; `doing` names call and object.
#define DS4_CUDA_TRY(call, doing)                                       \
  do {                                                                  \
    if (const cudaError_t ds4_error = (call); ds4_error != cudaSuccess) \
      return ::ds4::cuda::fail_cuda(ds4_error, doing);                  \
  } while (false)

/// The same for a driver call.
#define DS4_DRIVER_TRY(call, doing)                                   \
  do {                                                                \
    if (const CUresult ds4_error = (call); ds4_error != CUDA_SUCCESS) \
      return ::ds4::cuda::fail_driver(ds4_error, doing);              \
  } while (false)

}  // namespace ds4::cuda
