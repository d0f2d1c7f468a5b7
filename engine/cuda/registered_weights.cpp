#include "engine/cuda/registered_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "engine/cuda/driver.h"
#include "engine/cuda/registration_plan.h"
#include "engine/cuda/weights_base.h"
#include "engine/residency/residency_audit.h"
#include "engine/residency/span_map.h"

namespace ds4::cuda {
namespace {

class RegisteredWeights final : public WeightsBase {
 public:
  RegisteredWeights(int device, std::shared_ptr<const ResidentSlice> slice)
      : WeightsBase(device, {slice, &slice->model()}, slice->range(), slice->cover()),
        slice_(std::move(slice)) {}

  Result<void> register_all(RegistrationSet& set) {
    const Stopwatch watch;
    reset_peak_rss();
    const std::uint64_t page = system_page_bytes();
    DS4_ASSIGN(borders_, part_borders(model()));
    for (const Interval& piece : cut_at(cover().intervals(), borders_)) {
      // The file's end counts as a page boundary, but pages are registered whole.
      const std::uint64_t bytes = (piece.bytes() + page - 1) & ~(page - 1);
      DS4_ASSIGN(auto held, set.hold(slice_->reservation() + piece.begin, bytes));
      registrations_.push_back(std::move(held));
      registered_bytes_ += bytes;
    }
    DS4_TRY(check_in_one_piece());
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
  bool shows_the_file() const override { return slice_->shows_the_file(); }
  std::optional<std::string> broken() const override {
    if (auto why = slice_->broken()) return why;
    return WeightsBase::broken();
  }

 private:
  /// A tensor may lie in several pieces, and must be in one piece for the device too.
  Result<void> check_in_one_piece() const {
    const auto same = [&](const auto& registration) {
      return registration->device_distance() == registrations_.front()->device_distance();
    };
    if (std::ranges::all_of(registrations_, same)) return {};
    return fail(ErrorCode::kUnsupported,
                "this device sees registered pages in another order than "
                "the host; use residency.strategy = \"cuda-device\"");
  }

  const std::byte* address_of(const TensorInfo& tensor) const override {
    return slice_->reservation() + tensor.offset + registrations_.front()->device_distance();
  }

  std::uint64_t copyable_bytes(std::uint64_t file_offset) const override {
    const auto border = std::ranges::upper_bound(borders_, file_offset);
    return border != borders_.end() ? *border - file_offset : UINT64_MAX;
  }

  const std::shared_ptr<const ResidentSlice> slice_;
  std::vector<std::uint64_t> borders_;                              // of the pieces, and others
  std::vector<std::shared_ptr<const Registration>> registrations_;  // gone before slice_
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

Result<std::shared_ptr<const CudaWeights>> make(int device, RegistrationSet& set,
                                                std::shared_ptr<const ResidentSlice> slice) {
  DS4_CUDA_TRY(cudaSetDevice(device), fmt::format("use device {}", device));
  DS4_TRY(check_supported(device));
  auto weights = std::make_shared<RegisteredWeights>(device, std::move(slice));
  DS4_TRY(weights->register_all(set));
  return weights;
}

}  // namespace

Result<std::shared_ptr<const CudaWeights>> register_weights(
    int device, RegistrationSet& set, std::shared_ptr<const ResidentSlice> slice) {
  const std::string doing = fmt::format("register layers {} of {} with the GPU",
                                        slice->range().to_string(), slice->model().path());
  auto weights = make(device, set, std::move(slice));
  if (!weights) return fail(std::move(weights).error(), doing);
  return weights;
}

}  // namespace ds4::cuda
