#pragma once
// cuda-device: a slice's weights in device memory, loaded or adopted.
#include <memory>
#include <vector>

#include "engine/cuda/plugin.h"

namespace ds4::cuda {

/// As CudaEngine::load.
Result<std::shared_ptr<const CudaWeights>> load_device_weights(
    int device, std::shared_ptr<const ModelFile> model, const LayerRange& range,
    const CudaLoadOptions& options);

/// As CudaEngine::adopt.
Result<std::shared_ptr<const CudaWeights>> adopt_device_weights(
    int device, std::shared_ptr<const ModelFile> model, const LayerRange& range,
    std::vector<StoredDescriptor> stored);

}  // namespace ds4::cuda
