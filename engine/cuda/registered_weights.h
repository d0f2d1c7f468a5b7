#pragma once
// cuda-registered: the host's own pages, which a GPU reads where they are.
#include <memory>

#include "engine/cuda/plugin.h"
#include "engine/cuda/registration.h"

namespace ds4::cuda {

/// As CudaEngine::register_host; pages that other weights hold in `set` are shared. Errors:
/// kUnsupported if the device cannot register read-only pages; kResourceExhausted if they cannot be
/// pinned.
Result<std::shared_ptr<const CudaWeights>> register_weights(
    int device, RegistrationSet& set, std::shared_ptr<const ResidentSlice> slice);

}  // namespace ds4::cuda
