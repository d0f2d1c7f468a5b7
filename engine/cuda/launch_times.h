#pragma once
// How long the kernels of a call ran: an event behind each launch. With events between them kernels
// do not overlap, so their sum is more than the call takes without.
#include <cuda_runtime_api.h>

#include <vector>

#include "engine/base/result.h"
#include "engine/cuda/kernel_times.h"
#include "engine/cuda/kernels/launch.h"

namespace ds4::cuda {

class LaunchTimes final : public LaunchObserver {
 public:
  LaunchTimes() = default;
  LaunchTimes(const LaunchTimes&) = delete;
  LaunchTimes& operator=(const LaunchTimes&) = delete;
  ~LaunchTimes() override;

  /// A call begins; behind what is on the stream.
  void begin(cudaStream_t stream);
  void launched(cudaStream_t stream, const char* name) override { mark(stream, name); }
  /// Of the call. The stream must be idle.
  Result<KernelTimes> take();

 private:
  struct Mark {
    const char* name;
    cudaEvent_t event;
  };
  void mark(cudaStream_t stream, const char* name);

  std::vector<Mark> marks_;
  std::vector<cudaEvent_t> spare_;
  cudaError_t error_ = cudaSuccess;  // the first of this call
};

}  // namespace ds4::cuda
