#pragma once
// A slice's weights in device memory: parts that others may hold too.
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/cuda/device_part.h"
#include "engine/cuda/weights_base.h"

namespace ds4::cuda {

class DeviceWeights final : public WeightsBase {
 public:
  /// `parts` are all of `range` and hold every tensor of it.
  DeviceWeights(int device, std::shared_ptr<const ModelFile> model, const LayerRange& range,
                SpanCover cover, std::vector<std::shared_ptr<const DevicePart>> parts,
                const LoadFigures& figures, std::string note);

  std::string_view strategy() const override { return "cuda-device"; }
  Result<Residency> audit() const override;
  std::uint64_t device_bytes() const override;
  std::uint64_t registered_bytes() const override { return 0; }

 private:
  const std::byte* address_of(const TensorInfo& tensor) const override;

  const std::vector<std::shared_ptr<const DevicePart>> parts_;
  std::unordered_map<const TensorInfo*, const std::byte*> addresses_;
};

}  // namespace ds4::cuda
