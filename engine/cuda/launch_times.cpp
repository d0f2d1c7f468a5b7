#include "engine/cuda/launch_times.h"

#include "engine/cuda/driver.h"

namespace ds4::cuda {

LaunchTimes::~LaunchTimes() {
  for (const Mark& mark : marks_) cudaEventDestroy(mark.event);
  for (const cudaEvent_t event : spare_) cudaEventDestroy(event);
}

void LaunchTimes::begin(cudaStream_t stream) {
  for (const Mark& mark : marks_) spare_.push_back(mark.event);
  marks_.clear();
  error_ = cudaSuccess;
  mark(stream, "");
}

void LaunchTimes::mark(cudaStream_t stream, const char* name) {
  if (error_ != cudaSuccess) return;
  cudaEvent_t event = nullptr;
  if (!spare_.empty()) {
    event = spare_.back();
    spare_.pop_back();
  } else if (error_ = cudaEventCreate(&event); error_ != cudaSuccess) {
    return;
  }
  marks_.push_back({name, event});
  error_ = cudaEventRecord(event, stream);
}

Result<KernelTimes> LaunchTimes::take() {
  DS4_CUDA_TRY(error_, "record the time of a launch");
  KernelTimes times;
  for (std::size_t i = 1; i < marks_.size(); ++i) {
    float ms = 0;
    DS4_CUDA_TRY(cudaEventElapsedTime(&ms, marks_[i - 1].event, marks_[i].event),
                 "read the time of a launch");
    times.add(marks_[i].name, 1, double{ms});
  }
  return times;
}

}  // namespace ds4::cuda
