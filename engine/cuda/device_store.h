#pragma once
// cuda-device: the parts of models that are in device memory, each once.
//
// While a route changes, two slices are alive, and most of their layers are the same; a GPU could
// not hold both. So weights share parts: a load takes those that some weights of this process hold,
// then those that a former process left with the keeper, and copies only the rest. A part goes, and
// is forgotten by the keeper, with the last weights that hold it.
//
// Thread rule: any thread; loads are done one after another.
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/cuda/device_part.h"
#include "engine/cuda/plugin.h"

namespace ds4::cuda {

class DeviceStore : public std::enable_shared_from_this<DeviceStore> {
 public:
  explicit DeviceStore(const CudaOpenOptions& options) : options_(options) {}

  /// As CudaEngine::load.
  Result<std::shared_ptr<const CudaWeights>> load(std::shared_ptr<const ModelFile> model,
                                                  const LayerRange& range,
                                                  const LoadOptions& options);
  /// As CudaEngine::leave.
  void leave();

 private:
  using Part = std::shared_ptr<const DevicePart>;
  /// One load under way.
  struct Loading {
    std::vector<Part> held;                         // by weights that are alive
    std::vector<std::shared_ptr<DevicePart>> made;  // adopted or copied: not held by any yet
    std::vector<PartPlan> missing;
    LoadFigures figures;
    std::string note;
  };

  Result<std::shared_ptr<const CudaWeights>> load_locked(std::shared_ptr<const ModelFile> model,
                                                         const LayerRange& range,
                                                         const LoadOptions& options);
  /// Sorts the parts of `range` into held, adopted and missing.
  Result<Loading> gather(const ModelFile& model, const LayerRange& range);
  /// Null if the keeper has none that can be used; then `note` may say why.
  std::shared_ptr<DevicePart> adopt(const ModelFile& model, const PartPlan& plan,
                                    std::string& note);
  Result<void> copy_missing(const ModelFile& model, Loading& loading, const LoadOptions& options);
  /// Makes a part one that is held: with its last copy it is forgotten and freed.
  Part hold(std::shared_ptr<DevicePart> part);
  void let_go(const std::string& kept_name);

  const CudaOpenOptions options_;
  std::mutex loading_mutex_;  // one load at a time

  std::mutex mutex_;  // of what follows; taken by ends of weights too, so never for long
  std::map<std::string, std::weak_ptr<const DevicePart>> held_;
  bool leaving_ = false;
};

}  // namespace ds4::cuda
