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
#include "agent/wire/control.h"
#include "engine/base/result.h"
#include "engine/model/slice.h"
#include "engine/residency/resident_slice.h"

namespace ds4::agent {

/// A slice that can run, and the weights under it.
struct LoadedSlice {
  std::shared_ptr<const ResidentSlice> weights;
  std::unique_ptr<Slice> slice;
};

struct LoadOutcome {
  std::uint64_t epoch = 0;
  Result<LoadedSlice> slice;
};

class Loader {
 public:
  Loader(std::shared_ptr<const ModelFile> model, const Config& config);
  ~Loader();  // cancels what is under way and waits for it
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// Loads are done one after another.
  void load(std::uint64_t epoch, const LayerRange& range);
  /// No outcome of this epoch will be taken from now on.
  void cancel(std::uint64_t epoch);
  /// Destroys `thing` on the loader's thread: unmapping and unlocking gigabytes takes its time.
  void discard(std::shared_ptr<void> thing);

  int event_fd() const;
  std::optional<LoadOutcome> take();
  /// Of the load under way, or of the last one.
  wire::LoadProgress progress() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4::agent
