#pragma once
// CudaEngine itself, for those that are built with CUDA: the library's entry, tests, benchmarks.
#include <memory>

#include "engine/cuda/plugin.h"

namespace ds4::cuda {

/// As CudaEngine::open once the library is loaded. The least a device must be: compute capability
/// 9.0, with addresses unified with the host's.
Result<std::shared_ptr<CudaEngine>> open_engine(const CudaOpenOptions& options);

}  // namespace ds4::cuda
