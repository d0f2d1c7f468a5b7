#pragma once
// Makes a Slice that computes on the GPU, over weights that are already where it reaches them.
//
// What it computes is what the CPU slice computes, with weights and activations of products as
// halves and sums as floats. Everything of a call stays on the device: the host copies tables of
// rows there, starts the launches and takes the result. Calls of few rows, whose launches would
// take the host longer than the device, are captured in a CUDA graph per shape and replayed.
#include <memory>

#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/plugin.h"
#include "engine/cuda/slice_weights.h"

namespace ds4::cuda {

/// As CudaEngine::make_slice. Errors: kNotFound/kCorrupt naming a tensor that is absent or has
/// another shape or type than the metadata demands; kUnsupported; kResourceExhausted.
Result<std::unique_ptr<Slice>> make_slice(std::shared_ptr<const CudaWeights> weights,
                                          const CudaSliceOptions& options);

/// For tests and benchmarks.
struct SliceTuning {
  bool graphs = true;
  bool overlap = true;  // kernels may start before their predecessor ends
};
Result<std::unique_ptr<Slice>> make_slice(std::shared_ptr<const TensorSource> source,
                                          const CudaSliceOptions& options,
                                          const SliceTuning& tuning);

}  // namespace ds4::cuda
