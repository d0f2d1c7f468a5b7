#include "engine/cuda/slice.h"

namespace ds4::cuda {

Result<std::unique_ptr<Slice>> make_slice(std::shared_ptr<const CudaWeights>,
                                          const CudaSliceOptions&) {
  return fail(ErrorCode::kUnsupported,
              "this build of the CUDA engine holds weights, but cannot "
              "compute yet");
}

}  // namespace ds4::cuda
