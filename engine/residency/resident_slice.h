#pragma once
// A slice's weights in host memory: the model file's own bytes, of the cover and of nothing else,
// made resident once. Everything that computes reaches weights through tensor(), so a layer that
// the slice does not own cannot be touched by mistake: asking for it is an error that names both,
// and its address is not mapped.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "engine/base/result.h"
#include "engine/gguf/gguf.h"
#include "engine/residency/residence.h"
#include "engine/residency/weight_space.h"

namespace ds4 {

class ModelFile;  // gguf/model_file.h: an open file, its parsed header and its fingerprint

/// One tensor's place in memory. Valid as long as its ResidentSlice.
struct TensorView {
  const TensorInfo* info = nullptr;
  std::span<const std::byte> bytes;
};

class ResidentSlice final : public Residence {
 public:
  /// Claims the cover of `range` in a space that other slices may share.
  static Result<std::shared_ptr<ResidentSlice>> load(std::shared_ptr<WeightSpace> space,
                                                     const LayerRange& range,
                                                     const LoadOptions& options = {});
  /// In a space of its own, with the page cache as residence.
  static Result<std::shared_ptr<ResidentSlice>> load(std::shared_ptr<const ModelFile> model,
                                                     const LayerRange& range,
                                                     const LoadOptions& options = {});

  /// Errors: kNotFound if the file has no such tensor, kOutOfRange (naming tensor and range) if it
  /// belongs to other layers.
  Result<TensorView> tensor(std::string_view name) const;

  const ModelFile& model() const { return space_->model(); }
  std::string_view strategy() const override { return space_->store().name(); }
  const LayerRange& range() const override { return range_; }
  const SpanCover& cover() const override { return loaded_.cover; }
  Result<Residency> audit() const override;
  bool shows_the_file() const override { return space_->store().shows_the_file(); }
  const LoadFigures& figures() const override { return loaded_.figures; }
  const std::string& note() const override { return loaded_.note; }
  std::optional<std::string> broken() const override { return space_->broken(); }
  /// The reserved address of file offset 0.
  const std::byte* reservation() const { return space_->map().base(); }

 private:
  ResidentSlice(std::shared_ptr<WeightSpace> space, const LayerRange& range,
                WeightSpace::Loaded loaded)
      : space_(std::move(space)), range_(range), loaded_(std::move(loaded)) {}

  const std::shared_ptr<WeightSpace> space_;
  const LayerRange range_;
  const WeightSpace::Loaded loaded_;
};

}  // namespace ds4
