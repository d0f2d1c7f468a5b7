#pragma once
// The route, as one node sees it: which epoch is prepared, which one serves, who answers, and
// whether a token has really crossed it.
//
// The hard idea: "ready" is never believed, it is observed. The first stage's agent sends a canary,
// a one-token session through every stage, once all stages say that they hold their layers; only
// when its token comes back does stage 0 tell the others, in its pings, that the route is ready. A
// stage that falls silent, or that comes back as another process (its caches are gone), takes the
// route out of ready at once, and only the next canary brings it back.
//
// The machine is a pure value. Events go in with the time at which they happened, actions come out;
// it owns no socket, thread, file or clock. Being copyable makes changes transactional: a caller
// applies an event to a copy, writes ledger() to disk if it changed, and keeps the copy only if
// that worked, so a full disk is an error reply and nothing else.
//
// Two epochs can be alive: the committed one, which serves, and one in preparation beside it. Until
// the commit both slices are resident, and a preparation that fails leaves the committed one alone.
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "agent/route/assignment.h"
#include "agent/wire/control.h"
#include "agent/wire/frame.h"
#include "engine/base/result.h"

namespace ds4::agent {

using TimePoint = std::chrono::steady_clock::time_point;

struct RouteTiming {
  std::chrono::milliseconds ping{100};
  std::chrono::milliseconds timeout{1500};   // a stage silent for longer does not answer
  std::chrono::milliseconds forget{60'000};  // and after so long, nobody waits for its return
  std::chrono::milliseconds canary_timeout{30'000};
  std::chrono::milliseconds canary_pause{1000};  // between a failed canary and the next
};

// ---- actions, to be performed in order -------------------------------------------------------

/// Load the layers of this assignment in the background; report on_loaded or on_load_failed.
struct StartLoad {
  Assignment assignment;
};
/// Stop loading this epoch, or drop the slice that came of it, whichever it is.
struct ForgetSlice {
  std::uint64_t epoch = 0;
};
/// This is the route now: stop serving any former one and make links to the other stages.
struct JoinRoute {
  Assignment assignment;
};
/// There is no route now: stop serving, drop links.
struct LeaveRoute {};
/// The slice loaded for the route's epoch starts to compute.
struct StartStage {
  std::uint64_t epoch = 0;
};
/// To every other stage.
struct SendPing {
  wire::PingFrame frame;
};
/// One token through the whole route, sampled, answered to stage 0 (which is this node).
struct SendCanary {
  std::uint64_t session = 0;
};
struct CloseCanary {
  std::uint64_t session = 0;
};
/// The process that was the entry of stage `entry` is gone, or has been away for too long, and
/// nobody else will ever close the sessions it opened here.
struct CloseSessionsOf {
  std::uint32_t entry = 0;
};

using Action = std::variant<StartLoad, ForgetSlice, JoinRoute, LeaveRoute, StartStage, SendPing,
                            SendCanary, CloseCanary, CloseSessionsOf>;
using Actions = std::vector<Action>;

class RouteMachine {
 public:
  /// `instance` is random for each process; pings carry it.
  RouteMachine(const RouteTiming& timing, std::uint64_t instance, const Ledger& restored);

  /// Once, before anything else: takes up the restored assignment, if there is one. `fit` is the
  /// verdict of check_restored(); an assignment that does not fit is kept, as failed.
  Actions start(const Result<void>& fit, TimePoint now);

  // Control. An error means that nothing changed.
  /// `assignment` has passed check_prepare(). Errors: kMismatch (epoch), kUnavailable.
  Result<Actions> prepare(const Assignment& assignment);
  Result<Actions> commit(std::uint64_t epoch, TimePoint now);
  Actions abort(std::uint64_t epoch);
  Actions release();

  // The loader.
  Actions on_loaded(std::uint64_t epoch, TimePoint now);
  Actions on_load_failed(std::uint64_t epoch, const Error& error);

  /// What was loaded cannot run (any more).
  Actions on_slice_lost(std::uint64_t epoch, std::string_view why, TimePoint now);

  // The other stages.
  Actions on_ping(const wire::PingFrame& ping, TimePoint now);
  /// A frame could not be sent to `stage`.
  Actions on_unreachable(std::uint32_t stage, TimePoint now);
  bool is_canary(std::uint64_t session) const { return canary_ && canary_->session == session; }
  Actions on_canary_token(std::uint64_t session, TimePoint now);
  Actions on_canary_error(std::uint64_t session, std::string_view why, TimePoint now);

  /// Call at least every timing.ping.
  Actions tick(TimePoint now);
  /// The agent is going: the others need not wait for the timeout to notice.
  Actions stop();

  wire::NodeState state() const;
  /// One sentence; empty when there is nothing to say.
  std::string detail() const;
  std::optional<wire::Preparation> preparation() const;
  const Assignment* committed() const { return committed_ ? &*committed_ : nullptr; }
  const Assignment* preparing() const { return preparing_ ? &preparing_->assignment : nullptr; }
  const Ledger ledger() const { return {highest_epoch_, committed_}; }
  /// Changes with the route. A stage that comes back without its caches says so itself, per
  /// session.
  std::uint64_t serial() const { return serial_; }

 private:
  enum class OwnSlice : std::uint8_t { kLoading, kLoaded, kFailed };

  struct Preparing {
    Assignment assignment;
    wire::PreparePhase phase = wire::PreparePhase::kLoading;
    std::string detail;
  };

  struct Peer {
    TimePoint last_heard;  // or since when it is waited for
    TimePoint blocked_until{};
    bool heard = false;
    bool alive = true;  // as of the last event
    bool blocked = false;
    bool loaded = false;
    bool hears_all = false;
    bool forgotten = false;  // its sessions are closed
    /// The first stage's word: with which processes the route is ready.
    std::optional<std::uint64_t> ready_processes;
    std::uint64_t instance = 0;
  };

  struct Canary {
    std::uint64_t session = 0;
    TimePoint deadline;
  };

  bool is_first() const { return committed_->index == 0; }
  bool is_own(std::uint32_t stage) const { return stage == committed_->index; }
  void join(const Assignment& assignment, TimePoint now, Actions& actions);
  void forget_committed(Actions& actions);
  void settle(TimePoint now, Actions& actions);
  void watch_peers(TimePoint now, Actions& actions);
  void run_canary(bool whole, TimePoint now, Actions& actions);
  void give_up_canary(Actions& actions);
  void ping_all(TimePoint now, Actions& actions);
  std::uint64_t digest_of_route() const;
  bool all_alive() const;
  bool all_loaded() const;
  bool all_hear_all() const;
  std::string describe_silent() const;
  std::string describe_joining() const;

  RouteTiming timing_;
  std::uint64_t instance_;
  std::uint64_t highest_epoch_ = 0;
  std::uint64_t serial_ = 1;
  bool stopping_ = false;

  std::optional<Preparing> preparing_;

  std::optional<Assignment> committed_;
  OwnSlice own_ = OwnSlice::kLoading;
  std::string own_error_;
  std::vector<Peer> peers_;  // by stage; the own one is unused
  TimePoint next_ping_{};

  // Of the first stage's node.
  bool crossed_ = false;  // a canary has crossed the route as it is now
  std::optional<Canary> canary_;
  TimePoint next_canary_{};
  std::uint64_t canaries_ = 0;
  std::string canary_note_;  // why the last one failed
};

}  // namespace ds4::agent
