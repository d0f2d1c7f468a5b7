#pragma once
// cuda-registered: the host's own pages, which a GPU reads where they are.
#include <memory>

#include "engine/cuda/plugin.h"

namespace ds4::cuda {

/// As CudaEngine::register_host. Errors: kUnsupported if the device cannot register read-only
/// pages; kResourceExhausted if they cannot be pinned.
Result<std::shared_ptr<const CudaWeights>> register_weights(
    int device, std::shared_ptr<const ResidentSlice> slice);

}  // namespace ds4::cuda
