#pragma once
// A connection that outlives its agent.
//
// An agent keeps nothing of its clients over a restart; what has to survive, the library holds: the
// tokens of every kept session, and of every request that is to be resumed what was delivered. To a
// new agent both are prompts. Sampling depends on seed and position alone and caches can be
// computed again bit by bit, so what continues is what would have come. The program's names for
// requests and sessions stay; the agents' own names for them change underneath.
//
// A Link is one agent's life. When it ends, its requests end with it: those to be resumed are
// parked here until an agent of the same model is ready, the others get their finals.
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/base/unique_fd.h"
#include "ipc/client/dial.h"
#include "ipc/client/link.h"
#include "ipc/client/outcome.h"
#include "ipc/client/text.h"

namespace ds4::ipc {

struct CallerOptions {
  DialOptions dial;
  std::uint32_t spin_us = 0;       // as in ds4_connect_options
  std::uint32_t reconnect_ms = 0;  // likewise
};

/// Thread rule: one thread at a time.
class Caller {
 public:
  Caller(CallerOptions options, Dialed dialed);

  struct Generate {
    SubmissionEntry entry;  // without id, op and arena fields; session_id is the program's name
    std::span<const std::int32_t> prompt;
    std::span<const std::int32_t> stop;
    bool resume = false;
  };
  Outcome<std::uint64_t> generate(const Generate& request);
  /// A muted request delivers no events.
  Outcome<std::uint64_t> close_session(std::uint64_t session, bool muted);
  Outcome<std::uint64_t> fork_session(std::uint64_t session);
  Outcome<void> cancel(std::uint64_t id);
  /// As ds4_next; DS4_TIMEOUT and DS4_INTERRUPTED come as failures without a sentence.
  Outcome<void> next(ds4_event& event, int timeout_ms);

  int event_fd();
  const Welcome& welcome() const { return welcome_; }
  Text& text() { return text_; }
  std::uint32_t route_state() const;
  std::uint32_t requests() const { return static_cast<std::uint32_t>(asks_.size()); }
  bool is_connected() const { return link_ != nullptr; }
  std::uint32_t reconnects() const { return reconnects_; }

 private:
  using Clock = std::chrono::steady_clock;

  struct Session {
    std::uint64_t agent_id = 0;  // 0: the present agent does not hold it
    std::vector<std::int32_t> tokens;
  };

  /// A request that has not had its final.
  struct Ask {
    std::uint64_t id = 0;       // the program's
    std::uint64_t link_id = 0;  // the link's; 0: parked
    Op op = Op::kGenerate;
    SubmissionEntry entry;
    std::uint64_t session = 0;         // the program's name; 0: a new one
    std::vector<std::int32_t> base;    // a known session's tokens before
    std::vector<std::int32_t> prompt;  // of the program
    std::vector<std::int32_t> stop;    //
    std::vector<std::int32_t> answer;  // delivered, where that must be remembered
    std::uint32_t delivered = 0;       //
    std::uint32_t shown = 0;           // tokens of the last submission that are not of `prompt`
    bool resume = false;
    std::optional<Clock::time_point> give_up;  // parked since a while, and no token since
    Failure parked_for;
  };

  // ---- caller.cpp: agents, and what is known ----
  static std::chrono::milliseconds left_until(Clock::time_point deadline);
  std::chrono::milliseconds patience() const;
  void look_at_link();
  Outcome<void> ensure_link();
  Outcome<void> ensure_link_for(std::uint64_t session);
  Outcome<void> try_link(std::chrono::milliseconds timeout);
  void adopt(Dialed dialed);
  void drop_link(const Failure& why);
  void forget_model();
  std::uint64_t take_id();
  static bool keeps(const Ask& ask);
  std::uint32_t held(const Ask& ask) const;
  bool is_answering(std::uint64_t session) const;
  bool is_closing(std::uint64_t session) const;
  bool has_local_final(std::uint64_t id) const;
  bool any_parked() const;
  Ask* find(std::uint64_t id);
  Ask* find_by_link_id(std::uint64_t link_id);
  void erase(std::uint64_t id);

  // ---- caller_asking.cpp ----
  Outcome<std::uint64_t> submit(Ask& ask);
  std::uint64_t answer_locally(Ask ask, ds4_status status, std::uint64_t session);

  // ---- caller_events.cpp ----
  Outcome<void> wait_parked(ds4_event& event, int slice_ms);
  void resubmit_parked();
  bool complete_locally(Ask& ask);
  void give_up_late();
  bool translate(ds4_event& event);
  bool on_token(Ask& ask, const ds4_event& event);
  bool on_progress(const Ask& ask, ds4_event& event);
  bool on_final(Ask& ask, ds4_event& event);
  bool park(Ask& ask, const ds4_event& event);
  void on_generated(Ask& ask, ds4_event& event);
  bool was_taken_back(const Ask& ask, const ds4_event& event) const;
  void on_forked(Ask& ask, ds4_event& event);
  std::uint64_t add_session(std::uint64_t name, std::uint64_t agent_id,
                            std::vector<std::int32_t> tokens);
  std::vector<std::int32_t> tokens_of(const Ask& ask, std::int32_t stop_token) const;
  void fail_locally(const Ask& ask, const Failure& why);
  void finish_locally(const Ask& ask, ds4_status status, std::uint64_t session,
                      std::string sentence);
  bool take_local(ds4_event& event);
  void set_timer();

  const CallerOptions options_;
  Welcome welcome_;
  Text text_;
  std::unique_ptr<Link> link_;
  std::uint64_t next_id_ = 1;  // of the program's and the links' requests alike
  std::uint64_t own_names_ = 0;
  std::optional<Failure> lost_;  // why there is no link
  bool model_changed_ = false;   // and no submission has learnt it
  std::uint32_t reconnects_ = 0;
  Clock::time_point next_attempt_;
  std::chrono::milliseconds backoff_{0};

  std::map<std::uint64_t, Session> sessions_;  // by the program's names
  std::vector<Ask> asks_;
  struct LocalFinal {
    ds4_event event;
    std::string sentence;
  };
  std::deque<LocalFinal> local_finals_;
  std::string last_sentence_;  // what the last local final's `sentence` points to

  UniqueFd events_;  // an epoll around the link's wake pipe and the timer, once asked for
  UniqueFd timer_;
};

}  // namespace ds4::ipc
