#include "engine/cuda/pinned_ring.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "engine/cuda/driver.h"

namespace ds4::cuda {
namespace {

constexpr std::uint64_t kUnit = 4096;  // buffers are of whole pages, as direct reads want

/// Two buffers, a stream, and for each buffer the event of its last departure.
class PinnedLane final : public CopyLane {
 public:
  explicit PinnedLane(std::array<std::span<std::byte>, 2> buffers) : buffers_(buffers) {}

  Result<void> open(int device) {
    DS4_CUDA_TRY(cudaSetDevice(device), fmt::format("use device {}", device));
    DS4_CUDA_TRY(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    for (cudaEvent_t& event : left_) {
      DS4_CUDA_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    }
    return {};
  }

  ~PinnedLane() override {
    if (stream_ != nullptr) cudaStreamSynchronize(stream_);  // a copy may still read the buffers
    for (const cudaEvent_t event : left_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  Result<std::span<std::byte>> buffer() override {
    // An event that was never recorded counts as passed.
    DS4_CUDA_TRY(cudaEventSynchronize(left_[turn_]), "copy weights to the device");
    return buffers_[turn_];
  }

  Result<void> send(std::uint64_t bytes, std::uint64_t device_place) override {
    DS4_CUDA_TRY(cudaMemcpyAsync(reinterpret_cast<void*>(device_place), buffers_[turn_].data(),
                                 bytes, cudaMemcpyHostToDevice, stream_),
                 "copy weights to the device");
    DS4_CUDA_TRY(cudaEventRecord(left_[turn_], stream_), "cudaEventRecord");
    turn_ ^= 1;
    return {};
  }

  Result<void> finish() override {
    DS4_CUDA_TRY(cudaStreamSynchronize(stream_), "copy weights to the device");
    return {};
  }

 private:
  const std::array<std::span<std::byte>, 2> buffers_;
  cudaStream_t stream_ = nullptr;
  std::array<cudaEvent_t, 2> left_ = {};
  std::size_t turn_ = 0;
};

}  // namespace

Result<std::unique_ptr<PinnedRing>> PinnedRing::make(int device, std::uint64_t bytes,
                                                     unsigned lanes) {
  const std::uint64_t buffer_bytes = std::max((bytes / lanes / 2) & ~(kUnit - 1), kUnit);
  DS4_CUDA_TRY(cudaSetDevice(device), fmt::format("use device {}", device));
  void* memory = nullptr;
  DS4_CUDA_TRY(cudaHostAlloc(&memory, 2 * buffer_bytes * lanes, cudaHostAllocDefault),
               fmt::format("allocate {} bytes of pinned host memory", 2 * buffer_bytes * lanes));
  return std::unique_ptr<PinnedRing>(
      new PinnedRing(device, static_cast<std::byte*>(memory), buffer_bytes, lanes));
}

PinnedRing::~PinnedRing() {
  cudaSetDevice(device_);
  cudaFreeHost(memory_);
}

Result<std::unique_ptr<CopyLane>> PinnedRing::lane(unsigned index) {
  std::byte* const first = memory_ + 2 * buffer_bytes_ * index;
  auto made = std::make_unique<PinnedLane>(std::array<std::span<std::byte>, 2>{
      std::span(first, buffer_bytes_), std::span(first + buffer_bytes_, buffer_bytes_)});
  DS4_TRY(made->open(device_));
  return made;
}

}  // namespace ds4::cuda
