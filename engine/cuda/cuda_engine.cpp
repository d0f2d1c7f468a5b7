#include "engine/cuda/cuda_engine.h"

#include <fmt/format.h>

#include <utility>

#include "engine/cuda/device_store.h"
#include "engine/cuda/driver.h"
#include "engine/cuda/registered_weights.h"
#include "engine/cuda/slice.h"

namespace ds4::cuda {
namespace {

constexpr int kMinComputeMajor = 9;

Result<int> attribute(int device, cudaDeviceAttr what) {
  int value = 0;
  DS4_CUDA_TRY(cudaDeviceGetAttribute(&value, what, device),
               fmt::format("ask device {} for attribute {}", device, static_cast<int>(what)));
  return value;
}

class Engine final : public CudaEngine {
 public:
  Engine(const CudaOpenOptions& options, DeviceFacts facts)
      : device_(options.device),
        facts_(std::move(facts)),
        store_(std::make_shared<DeviceStore>(options)),
        registrations_(std::make_shared<RegistrationSet>(options.device)) {}

  Result<DeviceFacts> facts() const override {
    DS4_CUDA_TRY(cudaSetDevice(device_), fmt::format("use device {}", device_));
    DeviceFacts now = facts_;
    std::size_t free_bytes = 0;
    std::size_t total_bytes = 0;
    DS4_CUDA_TRY(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
    now.free_bytes = free_bytes;
    now.total_bytes = total_bytes;
    return now;
  }

  Result<double> pinned_copy_bytes_per_second() const override;
  Result<double> memory_bytes_per_second() const override;

  Result<std::shared_ptr<const CudaWeights>> load(std::shared_ptr<const ModelFile> model,
                                                  const LayerRange& range,
                                                  const LoadOptions& options) override {
    return store_->load(std::move(model), range, options);
  }
  Result<std::shared_ptr<const CudaWeights>> register_host(
      std::shared_ptr<const ResidentSlice> slice) override {
    return register_weights(device_, *registrations_, std::move(slice));
  }
  void leave() override { store_->leave(); }
  Result<std::unique_ptr<Slice>> make_slice(std::shared_ptr<const CudaWeights> weights,
                                            const CudaSliceOptions& options) override {
    return cuda::make_slice(std::move(weights), options);
  }

 private:
  const int device_;
  const DeviceFacts facts_;  // all but the free memory stay as they are
  const std::shared_ptr<DeviceStore> store_;
  const std::shared_ptr<RegistrationSet> registrations_;
};

/// Buffers and events of one measurement: `bytes` copied `kRounds` times.
struct CopyTrial {
  static constexpr int kRounds = 8;
  std::size_t bytes = 0;
  void* host = nullptr;
  void* device = nullptr;
  cudaEvent_t start = nullptr;
  cudaEvent_t end = nullptr;

  ~CopyTrial() {
    cudaFreeHost(host);
    cudaFree(device);
    if (start != nullptr) cudaEventDestroy(start);
    if (end != nullptr) cudaEventDestroy(end);
  }
  /// Copied bytes per second.
  Result<double> run(void* to, const void* from, cudaMemcpyKind kind) {
    constexpr const char* kDoing = "measure a copy rate";
    const auto copy = [&] { return cudaMemcpyAsync(to, from, bytes, kind); };
    DS4_CUDA_TRY(cudaEventCreate(&start), kDoing);
    DS4_CUDA_TRY(cudaEventCreate(&end), kDoing);
    DS4_CUDA_TRY(copy(), kDoing);  // warm
    DS4_CUDA_TRY(cudaEventRecord(start), kDoing);
    for (int round = 0; round < kRounds; ++round) DS4_CUDA_TRY(copy(), kDoing);
    DS4_CUDA_TRY(cudaEventRecord(end), kDoing);
    DS4_CUDA_TRY(cudaEventSynchronize(end), kDoing);
    float milliseconds = 0;
    DS4_CUDA_TRY(cudaEventElapsedTime(&milliseconds, start, end), kDoing);
    return static_cast<double>(bytes) * kRounds / (milliseconds / 1e3);
  }
};

Result<double> Engine::pinned_copy_bytes_per_second() const {
  constexpr const char* kDoing = "measure the copy rate";
  DS4_CUDA_TRY(cudaSetDevice(device_), kDoing);
  CopyTrial trial;
  trial.bytes = 256u << 20;
  DS4_CUDA_TRY(cudaHostAlloc(&trial.host, trial.bytes, cudaHostAllocDefault), kDoing);
  DS4_CUDA_TRY(cudaMalloc(&trial.device, trial.bytes), kDoing);
  return trial.run(trial.device, trial.host, cudaMemcpyHostToDevice);
}

Result<double> Engine::memory_bytes_per_second() const {
  constexpr const char* kDoing = "measure the device's memory";
  DS4_CUDA_TRY(cudaSetDevice(device_), kDoing);
  CopyTrial trial;
  trial.bytes = std::size_t{1} << 30;
  DS4_CUDA_TRY(cudaMalloc(&trial.device, 2 * trial.bytes), kDoing);
  DS4_ASSIGN(const double copied,
             trial.run(trial.device, static_cast<std::byte*>(trial.device) + trial.bytes,
                       cudaMemcpyDeviceToDevice));
  return 2 * copied;
}

/// One sentence for each way of having no device.
Result<void> check_device(int device) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    return fail(ErrorCode::kUnsupported,
                "there is no NVIDIA driver here, or it is older than CUDA "
                "13; install the driver");
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    return fail(ErrorCode::kUnsupported, "the NVIDIA driver finds no GPU");
  }
  DS4_CUDA_TRY(error, "look for GPUs");
  if (device >= 0 && device < count) return {};
  return fail(ErrorCode::kUnsupported,
              fmt::format("there is no GPU number {}: this machine has {}", device, count));
}

Result<DeviceFacts> read_facts(int device) {
  cudaDeviceProp properties = {};
  DS4_CUDA_TRY(cudaGetDeviceProperties(&properties, device),
               fmt::format("read the properties of device {}", device));
  DeviceFacts facts;
  facts.name = properties.name;
  facts.compute_major = properties.major;
  facts.compute_minor = properties.minor;
  facts.multiprocessors = properties.multiProcessorCount;
  facts.integrated = properties.integrated != 0;
  return facts;
}

Result<void> check_capable(const DeviceFacts& facts, int device) {
  if (facts.compute_major < kMinComputeMajor) {
    return fail(
        ErrorCode::kUnsupported,
        fmt::format("{} has compute capability {}.{}; the CUDA engine needs {}.0 or newer",
                    facts.name, facts.compute_major, facts.compute_minor, kMinComputeMajor));
  }
  DS4_TRY(Driver::get());
  DS4_ASSIGN(const int unified, attribute(device, cudaDevAttrUnifiedAddressing));
  if (unified != 0) return {};
  return fail(ErrorCode::kUnsupported,
              fmt::format("{} has no unified addresses with the host", facts.name));
}

}  // namespace

Result<std::shared_ptr<CudaEngine>> open_engine(const CudaOpenOptions& options) {
  const int device = options.device;
  DS4_TRY(check_device(device));
  DS4_ASSIGN(DeviceFacts facts, read_facts(device));
  DS4_TRY(check_capable(facts, device));
  DS4_CUDA_TRY(cudaSetDevice(device), fmt::format("use device {}", device));  // makes its context
  return std::make_shared<Engine>(options, std::move(facts));
}

}  // namespace ds4::cuda
