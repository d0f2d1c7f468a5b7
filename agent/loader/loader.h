#pragma once
// The loader: one thread that makes layers resident, and frees what is no longer wanted, so that
// the main loop goes on answering while tens of gigabytes move.
//
// Thread rule: public calls from the main loop's thread. Its event descriptor becomes readable when
// take() or take_measured() has something.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/config/config.h"
#include "agent/loader/fd_store.h"
#include "agent/loader/strategy.h"
#include "agent/wire/control.h"
#include "engine/base/result.h"

namespace ds4::agent {

struct LoadOutcome {
  std::uint64_t epoch = 0;
  Result<LoadedSlice> slice;
};

/// What this machine gives to layers; see self_bench.h.
struct Measured {
  bool host_memory = true;  // what loads take is the host's memory
  std::uint64_t device_free_bytes = 0;
  std::vector<wire::SpeedRate> rates;  // of the kinds of layers that were there to measure
  wire::SpeedRate overall;
  std::string how;  // a sentence
};

class Loader {
 public:
  /// `store` outlives it and everything that it loads.
  Loader(std::shared_ptr<const ModelFile> model, const Config& config, FdStore& store);
  ~Loader();  // cancels what is under way and waits for it
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// What is loaded from now on comes from this file.
  void use_model(std::shared_ptr<const ModelFile> model);
  /// Loads are done one after another. `host_memory`: whether the host's memory holds the range; an
  /// error is the load's outcome, unless its strategy takes other memory.
  void load(std::uint64_t epoch, const LayerRange& range, Result<void> host_memory = {});
  /// No outcome of this epoch will be taken from now on.
  void cancel(std::uint64_t epoch);
  /// Destroys `thing` on the loader's thread: unmapping and unlocking gigabytes takes its time.
  void discard(std::shared_ptr<void> thing);

  /// Measures this machine, behind the loads that wait, within about a second: on layers of `held`,
  /// which serve from this loader, or where there are none its memory's bandwidth. `loads`: of
  /// every layer of the model. One at a time.
  void measure(std::optional<LayerRange> held, std::vector<wire::LayerLoad> loads);

  int event_fd() const;
  std::optional<LoadOutcome> take();
  std::optional<Result<Measured>> take_measured();
  /// Of the load under way, or of the last one.
  wire::LoadProgress progress() const;
  /// The process ends in order: loads end, and what can outlive it stays in memory. Before the
  /// slices go.
  void leave();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4::agent
