#pragma once
// One client as the agent sees it, without any descriptor: its region, what it asks, what it is
// told, and whether either side should be woken. The server adds sockets; the fuzzer needs none.
#include <cstdint>
#include <optional>
#include <string>

#include "ipc/region.h"
#include "ipc/server/intake.h"
#include "ipc/server/outlet.h"
#include "ipc/server/server.h"
#include "ipc/waker.h"

namespace ds4::ipc {

/// How much of one client is done per turn, so that a flood of one is no drought of another. The
/// entry that crosses a bound is still done.
inline constexpr std::uint32_t kEntriesPerTurn = 64;
inline constexpr std::uint32_t kTokensPerTurn = 1U << 16;

/// Thread rule: one thread at a time.
class Session {
 public:
  class Sink {
   public:
    virtual ~Sink() = default;
    virtual void on_request(Request request) = 0;
    virtual void on_space() = 0;
  };

  /// `budget` as for Intake.
  Session(Region region, const RequestLimits& limits, TokenBudget* budget = nullptr);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// One turn: delivers queued completions, then up to kEntriesPerTurn submissions (kTokensPerTurn
  /// arena tokens) to `sink`. Afterwards either arms the agent's waker and returns false, or
  /// returns true: there is more to do now. A client that leaves its own completions lying is not
  /// read.
  bool turn(Sink& sink) { return work(sink) || arm(); }
  /// A turn without the arming: whoever goes on looking at has_entries() needs no doorbell, and
  /// must end with a turn(). True: there is more to do now.
  bool work(Sink& sink);
  /// Before the agent turns away from this client: says what it is to be woken for, then looks
  /// again. True: there is something to do now.
  bool arm();
  bool has_entries() { return intake_.has_entries(); }
  /// Whether the last turn consumed any entry.
  bool was_busy() const { return was_busy_; }

  bool can_take();
  void token(std::uint64_t request_id, std::int32_t token, std::uint32_t position, float logprob);
  void progress(std::uint64_t request_id, std::uint32_t done, std::uint32_t total);
  void finish(std::uint64_t request_id, const Server::Final& final);
  void set_route_state(RouteState state);

  /// True if the client sleeps and must be signalled, once, for what turn() and the answers did.
  bool flush();
  /// Why this client must be hung up on, once there is a reason.
  std::optional<std::string> broken() const;
  /// True if someone must call turn() although the client has not rung.
  bool needs_turn() const { return starved_ || outlet_.queued() > 0; }

  std::size_t requests_in_flight() const { return intake_.requests_in_flight(); }
  std::size_t queued() const { return outlet_.queued(); }
  const Region& region() const { return region_; }

 private:
  bool consume(Sink& sink);

  Region region_;
  Intake intake_;
  Outlet outlet_;
  Sleeper sleeper_;  // the agent's want
  Waker waker_;      // the client's
  std::size_t most_queued_;
  bool starved_ = false;    // can_take() said no since the last on_space()
  bool made_room_ = false;  // the client may be waiting for submission space
  bool was_busy_ = false;
  std::string broken_;
};

}  // namespace ds4::ipc
