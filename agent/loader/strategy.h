#pragma once
// A strategy: one way of making a range of layers resident and of computing on it. Which one is
// `residency.strategy` and `engine.device` in the configuration, or follows from the machine.
//
//   file             the model file's pages, mapped, read in, locked
//   memfd            a copy that outlives the agent, in systemd's descriptor store
//   cuda-registered  host pages that an integrated GPU reads, registered with its driver
//   cuda-device      device memory, which can outlive the agent too
//
// Thread rule: the loader's thread, but for leave().
#include <memory>
#include <string_view>

#include "agent/config/config.h"
#include "agent/loader/fd_store.h"
#include "engine/base/result.h"
#include "engine/gguf/model_file.h"
#include "engine/model/slice.h"
#include "engine/residency/residence.h"

namespace ds4::agent {

/// A slice that can run, and the weights under it.
struct LoadedSlice {
  std::shared_ptr<const Residence> weights;
  std::unique_ptr<Slice> slice;
};

class Strategy {
 public:
  virtual ~Strategy() = default;
  virtual std::string_view name() const = 0;
  /// True if the host's memory has to hold what is loaded.
  virtual bool takes_host_memory() const = 0;
  /// True if its slices read the model file's own pages, and not copies of them.
  virtual bool shows_the_file() const = 0;
  /// Errors leave nothing behind. What another slice of this strategy holds is not loaded twice.
  /// The slice takes `max_rows` rows in one pass.
  virtual Result<LoadedSlice> load(const LayerRange& range, const LoadOptions& options,
                                   std::uint32_t max_rows) = 0;
  /// Of the memory that loads take where that is not the host's; 0 where it is.
  virtual Result<std::uint64_t> device_free_bytes() const = 0;
  /// The process ends in order: what can outlive it should.
  virtual void leave() = 0;
  /// Its pages cannot be trusted any more: loads need a new strategy.
  virtual bool broken() const = 0;
};

/// Errors: kUnsupported in a sentence, where this machine or this build cannot do what is
/// configured. `store` outlives it and all that it loads.
Result<std::unique_ptr<Strategy>> make_strategy(std::shared_ptr<const ModelFile> model,
                                                const Config& config, FdStore& store);

/// True if every strategy that `config` can lead to takes_host_memory(). If not, the GPU decides.
bool surely_takes_host_memory(const Config& config);

}  // namespace ds4::agent
