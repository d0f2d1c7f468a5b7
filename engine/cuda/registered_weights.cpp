#include "engine/cuda/registered_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "engine/cuda/driver.h"
#include "engine/cuda/weights_base.h"
#include "engine/residency/residency_audit.h"
#include "engine/residency/span_map.h"

namespace ds4::cuda {
namespace {

/// One interval of a read-only shared mapping, known to the driver: pinned where it is, not copied.
/// (Other mappings are refused, copied page by page, or hang the driver.)
class Registration {
 public:
  static Result<Registration> make(const std::byte* host, std::uint64_t bytes) {
    Registration out;
    void* const at = const_cast<std::byte*>(host);  // mapped read-only, for the GPU as well
    DS4_CUDA_TRY(cudaHostRegister(at, bytes, cudaHostRegisterMapped | cudaHostRegisterReadOnly),
                 fmt::format("register {} bytes of host memory", bytes));
    out.host_ = at;
    void* device_address = nullptr;
    DS4_CUDA_TRY(cudaHostGetDevicePointer(&device_address, at, 0), "cudaHostGetDevicePointer");
    out.device_address_ = static_cast<const std::byte*>(device_address);
    return out;
  }
  Registration(Registration&& other) noexcept
      : host_(std::exchange(other.host_, nullptr)), device_address_(other.device_address_) {}
  Registration& operator=(Registration&& other) noexcept {
    std::swap(host_, other.host_);
    std::swap(device_address_, other.device_address_);
    return *this;
  }
  ~Registration() {
    if (host_ != nullptr) cudaHostUnregister(host_);
  }
  const std::byte* device_address() const { return device_address_; }

 private:
  Registration() = default;
  void* host_ = nullptr;
  const std::byte* device_address_ = nullptr;
};

class RegisteredWeights final : public WeightsBase {
 public:
  RegisteredWeights(int device, std::shared_ptr<const ResidentSlice> slice)
      : WeightsBase(device, {slice, &slice->model()}, slice->range(), slice->cover()),
        slice_(std::move(slice)) {}
  ~RegisteredWeights() override { cudaSetDevice(device()); }  // for the registrations' destructors

  Result<void> register_all() {
    const Stopwatch watch;
    reset_peak_rss();
    const std::uint64_t page = system_page_bytes();
    for (const Interval& interval : cover().intervals()) {
      // The file's end counts as a page boundary, but pages are registered whole.
      const std::uint64_t bytes = (interval.bytes() + page - 1) & ~(page - 1);
      DS4_ASSIGN(Registration done,
                 Registration::make(slice_->reservation() + interval.begin, bytes));
      registrations_.push_back(std::move(done));
      registered_bytes_ += bytes;
    }
    figures_.kept_bytes = cover().cover_bytes();
    figures_.took = watch.elapsed();
    figures_.peak_rss_bytes = peak_rss_bytes();
    note_ = slice_->note();
    return {};
  }

  std::uint64_t device_bytes() const override { return 0; }
  std::uint64_t registered_bytes() const override { return registered_bytes_; }
  std::string_view strategy() const override { return "cuda-registered"; }
  Result<Residency> audit() const override {
    DS4_ASSIGN(Residency residency, slice_->audit());
    for (IntervalResidency& interval : residency.intervals) {
      interval.registered_bytes = interval.planned.bytes();
    }
    residency.registered_bytes = cover().cover_bytes();
    return residency;
  }
  std::optional<std::string> broken() const override { return slice_->broken(); }
  std::string describe() const override {
    return fmt::format("registered read-only: {}", cover().describe());
  }

 private:
  const std::byte* address_of(const TensorInfo& tensor) const override {
    const auto intervals = cover().intervals();
    const auto behind = std::ranges::upper_bound(intervals, tensor.offset, {}, &Interval::begin);
    const auto index = static_cast<std::size_t>(behind - intervals.begin()) - 1;
    return registrations_[index].device_address() + (tensor.offset - intervals[index].begin);
  }

  const std::shared_ptr<const ResidentSlice> slice_;
  std::vector<Registration> registrations_;  // one for each interval; gone before slice_
  std::uint64_t registered_bytes_ = 0;
};

Result<void> check_supported(int device) {
  int supported = 0;
  DS4_CUDA_TRY(cudaDeviceGetAttribute(&supported, cudaDevAttrHostRegisterReadOnlySupported, device),
               "ask the device for read-only registration");
  if (supported != 0) return {};
  return fail(ErrorCode::kUnsupported,
              "this device cannot register read-only host memory; use "
              "residency.strategy = \"cuda-device\"");
}

Result<std::shared_ptr<const CudaWeights>> make(int device,
                                                std::shared_ptr<const ResidentSlice> slice) {
  DS4_CUDA_TRY(cudaSetDevice(device), fmt::format("use device {}", device));
  DS4_TRY(check_supported(device));
  auto weights = std::make_shared<RegisteredWeights>(device, std::move(slice));
  DS4_TRY(weights->register_all());
  return weights;
}

}  // namespace

Result<std::shared_ptr<const CudaWeights>> register_weights(
    int device, std::shared_ptr<const ResidentSlice> slice) {
  const std::string doing = fmt::format("register layers {} of {} with the GPU",
                                        slice->range().to_string(), slice->model().path());
  auto weights = make(device, std::move(slice));
  if (!weights) return fail(std::move(weights).error(), doing);
  return weights;
}

}  // namespace ds4::cuda
