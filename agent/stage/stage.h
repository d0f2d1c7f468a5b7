#pragma once
// A stage: the engine thread of one committed epoch, around one Slice.
//
// The main loop hands it work, closings and forks; it runs everything that is waiting as one
// forward() call of many sessions (up to the slice's rows), samples where it owns the output head,
// and sends what goes to other stages at once, by a function it is given: a frame that had to wait
// for the main loop would lose the time that the loop takes to wake. What is for this node's own
// entry is left for the main loop; the event descriptor becomes readable when there is something to
// drain.
//
// An item may be run in parts, so the last stage may acknowledge positions inside an item before
// its end, and only the end brings the token. Within a session everything happens in the order of
// submission; only a closing takes the session's waiting work along, since nobody will ask for it:
// a prompt that its user has cancelled does not hold up the others'. An item that fails (kMismatch:
// this stage does not hold the prefix it continues) answers its entry with an ErrorFrame and costs
// its session the cache here: later items fail the same way until one begins at position 0. Other
// sessions do not notice.
//
// Thread rule: all public calls from the main loop's thread.
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <variant>
#include <vector>

#include "agent/stage/kv_store.h"
#include "agent/wire/frame.h"
#include "engine/base/result.h"
#include "engine/model/slice.h"

namespace ds4::agent {

struct StagePlace {
  std::uint64_t epoch = 0;
  std::uint32_t index = 0;  // of this stage
  std::uint32_t count = 1;  // stages of the route
};

/// In place of a frame that could not be sent.
struct Unsent {};

/// A frame to be sent: to stage `to` (which may be this one: then it is handed to the entry, not
/// sent).
struct Outgoing {
  std::uint32_t to = 0;
  std::variant<wire::WorkFrame, wire::TokenFrame, wire::CloseFrame, wire::ForkFrame,
               wire::ErrorFrame, Unsent>
      frame;
  std::chrono::steady_clock::time_point made{};  // when the batch that it came of had ended
};

/// Where caches of idle sessions are put away; see kv_store.h.
struct KvDiskOptions {
  std::shared_ptr<const KvDirectory> directory;  // null: nowhere
  std::uint64_t most_bytes = 0;                  // on disk; 0: nowhere
  std::chrono::milliseconds after{0};            // idle for so long; 0: only when memory is used up
  std::uint64_t maker = 0;                       // kv_maker() of the slice
};

struct StageOptions {
  /// How much later a token may come because of other sessions' prompts, over all stages together
  /// (batch_planner.h); 0: as it happens.
  std::chrono::milliseconds decode_wait{100};
  /// When the memory for caches is used up, sessions without work for this long lose theirs,
  /// longest first, before a new one is refused. Entries replay what they still want, and caches
  /// whose closing was lost with some peer do not stay for ever.
  std::chrono::milliseconds idle_after{60'000};
  /// Sends a frame to another stage; called by the engine thread. False if that is unreachable:
  /// then the frame is lost, and drain() says so. None: all frames wait for drain().
  std::function<bool(Outgoing&)> send = {};
  /// Where work last came within this time, the engine thread yields its core instead of sleeping,
  /// for this time at most; 0: it sleeps.
  std::chrono::microseconds most_awake{1000};
  KvDiskOptions disk{};
  /// By which batches are timed.
  std::function<std::chrono::steady_clock::time_point()> clock = std::chrono::steady_clock::now;
};

/// Rows of work, for each stage of the route, beyond which a stage takes no more. Entries have
/// fewer under way; a peer that does not care shall not fill this machine's memory.
inline constexpr std::uint64_t kMostWaitingRows = 16'384;
/// And so many closings and forks: every session that is closed or copied had a row. A closing that
/// is dropped leaves its cache until memory is needed (StageOptions::idle_after); a copy that was
/// not made is fed again by its entry.
inline constexpr std::uint64_t kMostWaitingOrders = kMostWaitingRows;

/// What the engine thread has done; wire::StageFigures says what each is.
struct StageWork {
  std::uint64_t batches = 0;
  std::uint64_t decode_rows = 0;
  std::uint64_t prefill_rows = 0;
  std::uint64_t tokens = 0;
  std::uint64_t queue_items = 0;
  std::chrono::nanoseconds compute{};
  std::chrono::nanoseconds wait{};
  std::chrono::nanoseconds queue{};

  std::uint64_t rows() const { return decode_rows + prefill_rows; }
};

struct StageStats {
  std::uint64_t sessions = 0;
  std::uint64_t kv_bytes = 0;
  std::uint64_t waiting_rows = 0;
  std::uint64_t waiting_orders = 0;      // closings and forks
  std::uint64_t sent_frames = 0;         // by StageOptions::send
  std::chrono::nanoseconds send_time{};  // from their making to having been sent
  KvStoreStats stored;                   // sessions put away, which are not in the figures above
  StageWork work;
  /// Since when the engine thread has been running one batch, or has been wanted for one; zero when
  /// it is idle. For a watchdog.
  std::chrono::steady_clock::time_point busy_since{};
};

class Stage {
 public:
  /// `slice` owns the embedding exactly if `place` is the first of the route, the output head
  /// exactly if it is the last. Throws std::system_error if the kernel has no thread or descriptor
  /// left.
  Stage(std::unique_ptr<Slice> slice, const StagePlace& place, const StageOptions& options = {});
  ~Stage();  // waits for the forward() in progress; what waits behind it is dropped

  const StagePlace& place() const;
  const HyperParams& params() const;
  std::uint64_t floats_per_row() const;  // n_streams * n_embd

  /// Frames of other epochs are dropped, as are frames with an item whose entry is not a stage of
  /// the route. Never blocks. False: so much waits that the whole frame is dropped, as if it were
  /// lost on the way. Work does not keep closings and forks out, nor they work.
  bool submit(wire::WorkFrame frame);
  bool submit(wire::CloseFrame frame);
  bool submit(wire::ForkFrame frame);

  int event_fd() const;
  /// What there is to send, in order; resets the event.
  std::vector<Outgoing> drain();
  /// From now on StageOptions::send is not called any more.
  void stop_sending();
  StageStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4::agent
