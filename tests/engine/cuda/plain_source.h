#pragma once
// Tensors on the GPU for tests and measurements: each copied from the model file, or filled with
// random blocks of its type, in an allocation of its own.
#include <map>
#include <memory>
#include <string>

#include "engine/cuda/device_buffer.h"
#include "engine/cuda/slice_weights.h"

namespace ds4::test {

enum class Contents { kOfFile, kRandom };

class PlainSource final : public cuda::TensorSource {
 public:
  /// kRandom reads nothing of the file but its header: the file may be sparse.
  static Result<std::shared_ptr<PlainSource>> make(std::shared_ptr<const ModelFile> model,
                                                   const LayerRange& range, Contents contents);

  const ModelFile& model() const override { return *model_; }
  const LayerRange& range() const override { return range_; }
  int device() const override { return 0; }
  bool in_device_memory() const override { return true; }
  Result<DeviceTensor> tensor(std::string_view name) const override;
  Result<void> read_back(std::string_view name, std::uint64_t offset,
                         std::span<std::byte> out) const override;
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<const ModelFile> model_;
  LayerRange range_;
  std::map<std::string, cuda::DeviceBuffer<std::byte>, std::less<>> tensors_;
  std::uint64_t bytes_ = 0;
};

}  // namespace ds4::test
