#pragma once
// The loader: one thread that makes layers resident, and frees what is no longer wanted, so that
// the main loop goes on answering while tens of gigabytes move.
//
// Thread rule: public calls from the main loop's thread. Its event descriptor becomes readable when
// take() has something.
#include <cstdint>
#include <memory>
#include <optional>

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

  int event_fd() const;
  std::optional<LoadOutcome> take();
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
