#include "engine/cuda/device_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <utility>

namespace ds4::cuda {

DeviceWeights::DeviceWeights(int device, std::shared_ptr<const ModelFile> model,
                             const LayerRange& range, SpanCover cover,
                             std::vector<std::shared_ptr<const DevicePart>> parts,
                             const LoadFigures& figures, std::string note)
    : WeightsBase(device, std::move(model), range, std::move(cover)), parts_(std::move(parts)) {
  figures_ = figures;
  note_ = std::move(note);
  for (const TensorInfo& tensor : this->model().gguf().tensors()) {
    if (!range.owns(tensor.name) || tensor.bytes == 0) continue;
    const auto part = std::ranges::find_if(parts_, [&](const auto& candidate) {
      return candidate->cover().contains(tensor.offset, tensor.bytes);
    });
    assert(part != parts_.end());
    addresses_.emplace(&tensor, (*part)->address_of(tensor.offset));
  }
}

const std::byte* DeviceWeights::address_of(const TensorInfo& tensor) const {
  const auto found = addresses_.find(&tensor);
  return found != addresses_.end() ? found->second : nullptr;  // null: a tensor without bytes
}

Result<Residency> DeviceWeights::audit() const {
  Residency residency;
  for (const Interval& interval : cover().intervals()) {
    residency.intervals.push_back({.planned = interval, .device_bytes = interval.bytes()});
  }
  residency.device_bytes = cover().cover_bytes();
  return residency;
}

std::uint64_t DeviceWeights::device_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& part : parts_) bytes += part->device_bytes();
  return bytes;
}

}  // namespace ds4::cuda
