#pragma once
// What both kinds of weights on a GPU have in common: whose they are, and how a tensor is looked
// up.
#include <memory>
#include <utility>

#include "engine/cuda/plugin.h"

namespace ds4::cuda {

/// The cover of `range`. kOutOfRange if the file has no tensors of these layers.
Result<SpanCover> cover_of(const ModelFile& model, const LayerRange& range);

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
  const CudaLoadFigures& figures() const final { return figures_; }

 protected:
  /// The device address of a byte of the file that the cover holds.
  virtual const std::byte* address_of(std::uint64_t file_offset) const = 0;

  CudaLoadFigures figures_;

 private:
  const int device_;
  const std::shared_ptr<const ModelFile> model_;
  const LayerRange range_;
  const SpanCover cover_;
};

}  // namespace ds4::cuda
