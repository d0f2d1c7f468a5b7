#pragma once
// The client's end of a region: requests in, events out, and the agent's death noticed.
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ipc/client/dial.h"
#include "ipc/client/outbox.h"
#include "ipc/client/outcome.h"
#include "ipc/limits.h"
#include "ipc/spin.h"
#include "ipc/waker.h"

namespace ds4::ipc {

/// Thread rule: one thread at a time.
class Link {
 public:
  /// Request ids begin at `first_id`. `spin_us` as in ds4_connect_options.
  Link(Dialed dialed, std::uint32_t spin_us, std::uint64_t first_id = 1);
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  /// `entry` with everything but id, op and arena fields. Returns the request's id.
  Outcome<std::uint64_t> generate(SubmissionEntry entry, std::span<const std::int32_t> prompt,
                                  std::span<const std::int32_t> stop);
  /// A muted request delivers no events.
  Outcome<std::uint64_t> close_session(std::uint64_t session_id, bool muted);
  /// Only if the agent speaks 1.1, as its welcome says.
  Outcome<std::uint64_t> fork_session(std::uint64_t session_id);
  Outcome<void> cancel(std::uint64_t request_id);

  /// As ds4_next; DS4_TIMEOUT and DS4_INTERRUPTED come as failures without a sentence.
  Outcome<void> next(ds4_event& event, int timeout_ms);
  /// Readable when next() has something, under the rule of ds4_event_fd(); hangs up with the agent.
  int wake_fd() const { return wake_.get(); }
  /// Asks the kernel whether the agent is still there. False from then on.
  bool is_alive();
  std::uint64_t next_id() const { return next_id_; }
  void skip_to(std::uint64_t id) { next_id_ = id; }

  std::uint32_t route_state() const;

 private:
  using Clock = std::chrono::steady_clock;

  struct InFlight {
    std::uint64_t id = 0;
    bool muted = false;
    std::string message;  // fragments so far
  };

  Outcome<std::uint64_t> admit();
  Outcome<std::uint64_t> ask_about(Op op, std::uint64_t session_id, bool muted);
  void start(std::uint64_t id, bool muted);
  void submit_waiting();
  void ring_doorbell();

  bool take_event(ds4_event& event);
  bool convert(const CompletionEntry& entry, ds4_event& event);
  bool convert_final(InFlight& request, const CompletionEntry& entry, ds4_event& event);
  void release_completions();
  bool spin(Clock::time_point now, std::optional<Clock::time_point> deadline);
  bool look_until(Clock::time_point end);
  void stand_down(bool check_life);
  bool arm();
  ds4_status sleep(int timeout_ms);
  void drain_wake_pipe();

  void lose(Status status, std::string sentence);
  void lose_with_farewell();
  void end_all();
  InFlight* find(std::uint64_t id);
  void erase(std::uint64_t id);

  RequestLimits limits_;
  UniqueFd socket_;
  UniqueFd doorbell_;
  UniqueFd wake_;
  Region region_;
  Outbox outbox_;
  RingConsumer<CompletionEntry> completions_;
  Sleeper sleeper_;  // our want
  Waker waker_;      // the agent's
  std::uint32_t spin_us_ = 0;
  AdaptiveSpin adaptive_;
  std::uint32_t unreleased_ = 0;
  std::uint32_t quick_polls_ = 0;
  bool armed_ = false;  // a want was stored, and its signal not yet drained
  std::uint64_t next_id_ = 1;
  std::vector<InFlight> in_flight_;
  /// Finals that no agent sent: of requests taken back in time, or left behind by a lost agent.
  struct LocalFinal {
    std::uint64_t id = 0;
    Status status = Status::kCancelled;
    std::string sentence;
  };
  std::deque<LocalFinal> local_finals_;
  std::optional<Failure> lost_;
  std::string last_sentence_;  // what the last final's `sentence` points to
};

}  // namespace ds4::ipc
