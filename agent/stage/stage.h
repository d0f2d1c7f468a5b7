#pragma once
// A stage: the engine thread of one committed epoch, around one Slice.
//
// The main loop hands it work and closings; it runs everything that is waiting as one forward() call
// of many sessions (up to the slice's rows), samples where it owns the output head, and leaves frames
// for the main loop to send. It never touches a socket. Its event descriptor becomes readable when
// there is something to drain.
//
// Thread rule: all public calls from the main loop's thread.
#include <chrono>
#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include "agent/wire/frame.h"
#include "engine/base/result.h"
#include "engine/model/slice.h"

namespace ds4::agent {

struct StagePlace {
  std::uint64_t epoch = 0;
  std::uint32_t index = 0;  // of this stage
  std::uint32_t count = 1;  // stages of the route
};

/// A frame to be sent: to stage `to` (which may be this one: then it is handed to the entry, not sent).
struct Outgoing {
  std::uint32_t to = 0;
  std::variant<wire::WorkFrame, wire::TokenFrame, wire::CloseFrame, wire::ErrorFrame> frame;
};

struct StageStats {
  std::uint64_t sessions = 0;
  std::uint64_t kv_bytes = 0;
  std::uint64_t rows_done = 0;
  std::uint64_t batches = 0;
  /// Since when the engine thread has been inside one forward(); zero when it is idle. For a watchdog.
  std::chrono::steady_clock::time_point busy_since{};
};

class Stage {
 public:
  Stage(std::unique_ptr<Slice> slice, const StagePlace& place);
  ~Stage();  // waits for the forward() in progress

  const StagePlace& place() const;
  const HyperParams& params() const;
  std::uint64_t floats_per_row() const;  // n_streams * n_embd

  /// Frames of other epochs are dropped. Never blocks.
  void submit(wire::WorkFrame frame);
  void submit(wire::CloseFrame frame);

  int event_fd() const;
  std::vector<Outgoing> drain();
  StageStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4::agent
