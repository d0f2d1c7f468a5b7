#pragma once
// What both kinds of weights on a GPU have in common: whose they are, and how a tensor is looked
// up.
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "engine/cuda/driver.h"
#include "engine/cuda/plugin.h"

namespace ds4::cuda {

/// Time since it was made.
struct Stopwatch {
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  std::chrono::nanoseconds elapsed() const { return std::chrono::steady_clock::now() - start; }
};

class WeightsBase : public CudaWeights {
 public:
  WeightsBase(int device, std::shared_ptr<const ModelFile> model, const LayerRange& range,
              SpanCover cover)
      : device_(device), model_(std::move(model)), range_(range), cover_(std::move(cover)) {}

  Result<DeviceTensor> tensor(std::string_view name) const final;
  Result<void> read_back(std::string_view name, std::uint64_t offset,
                         std::span<std::byte> out) const final;

  const ModelFile& model() const final { return *model_; }
  const LayerRange& range() const final { return range_; }
  const SpanCover& cover() const final { return cover_; }
  int device() const final { return device_; }
  const LoadFigures& figures() const final { return figures_; }
  const std::string& note() const final { return note_; }
  std::optional<std::string> broken() const override { return device_failure(device_); }

 protected:
  /// The device address of a tensor of the range.
  virtual const std::byte* address_of(const TensorInfo& tensor) const = 0;
  /// How many bytes from this one on a single copy may take: kernels read across registrations,
  /// but the runtime's copies do not.
  virtual std::uint64_t copyable_bytes(std::uint64_t /*file_offset*/) const { return UINT64_MAX; }

  LoadFigures figures_;
  std::string note_;

 private:
  const int device_;
  const std::shared_ptr<const ModelFile> model_;
  const LayerRange range_;
  const SpanCover cover_;
};

}  // namespace ds4::cuda
