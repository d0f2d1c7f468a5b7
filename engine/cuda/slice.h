#pragma once
// Makes a Slice that computes on the GPU, over weights that are already where it reaches them.
#include <memory>

#include "engine/cuda/plugin.h"

namespace ds4::cuda {

/// As CudaEngine::make_slice. Errors: kNotFound/kCorrupt naming a tensor that is absent or has
/// another shape or type than the metadata demands; kUnsupported; kResourceExhausted.
Result<std::unique_ptr<Slice>> make_slice(std::shared_ptr<const CudaWeights> weights,
                                          const CudaSliceOptions& options);

}  // namespace ds4::cuda
