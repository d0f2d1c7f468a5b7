#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/gguf/gguf.h"

namespace ds4::test {

/// Fills a tensor on the device with random blocks of its type, whose values are of the size that
/// keeps activations near one. Token tables of hash layers get numbers below `experts`.
cudaError_t fill_random(const TensorInfo& info, std::uint32_t experts, std::byte* data);

}  // namespace ds4::test
