#pragma once
// Internal to agent/entry: the state machine. What clients ask is in requests.cpp, what the route
// answers in answers.cpp, and what both need (feeding and ending) in entry.cpp.
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "agent/entry/entry.h"
#include "agent/entry/rotation.h"
#include "agent/entry/session.h"

namespace ds4::agent {

/// So often between two tokens is a session fed again, because some frame or some stage's cache was
/// lost. Frames are lost with connections, several of which may break before a long prompt is
/// through.
inline constexpr std::uint32_t kMaxAttempts = 3;

struct Entry::Impl {
  Impl(const EntryConfig& settings, EntryPort& where);

  // ---- requests.cpp ----
  void generate(ipc::ClientId client, ipc::GenerateRequest request);
  void cancel(ipc::ClientId client, const ipc::CancelRequest& request);
  void close_session(ipc::ClientId client, const ipc::CloseSessionRequest& request);
  void fork_session(ipc::ClientId client, const ipc::ForkSessionRequest& request);
  void gone(ipc::ClientId client);
  void space(ipc::ClientId client);

  // ---- answers.cpp ----
  void outcome(const wire::Outcome& outcome);
  void error(const wire::ErrorFrame& error);
  void route(const RouteView& view);
  void shut_down();

  // ---- lost_work.cpp ----
  void look_for_lost_work(std::chrono::steady_clock::time_point time);

  // ---- entry.cpp ----
  Session* find(ipc::ClientId client, std::uint64_t id);
  Session* find_by_route_id(std::uint64_t route_id);
  /// Lets the session feed what it has not fed, in its turn.
  void feed(Session& session);
  /// Sends prefill chunks and decode steps while the bounds on what is in flight allow.
  void pump();
  void acknowledge(Session& session, std::uint32_t position);
  /// Gives up the session's cache, telling the route; its tokens stay.
  void give_up_cache(Session& session);
  /// The same where the route has lost it already and need not be told.
  void forget_cache(Session& session);
  /// Gives up the cache of the kept session that has been idle the longest. False if there is none.
  bool give_up_an_idle_cache();
  void finish(Session& session, ipc::Status status, std::string sentence,
              std::int32_t stop_token = -1);
  /// Forgets the session and its cache; a request in progress gets no answer.
  void drop(Session& session);

 private:
  friend class Entry;

  // requests.cpp
  struct Refusal {
    ipc::Status status;
    std::string sentence;
  };
  static Refusal unknown(std::uint64_t session);
  static Refusal still_answering(const Session& session);
  std::optional<Refusal> check(ipc::ClientId client, const ipc::GenerateRequest& request,
                               const Session* session) const;
  std::optional<Refusal> check_fork(ipc::ClientId client, const ipc::ForkSessionRequest& request,
                                    const Session* session) const;
  std::optional<Refusal> check_room(ipc::ClientId client, const Session* session,
                                    std::size_t more_tokens) const;
  Session& add_session(ipc::ClientId client);
  Session& begin(ipc::ClientId client, ipc::GenerateRequest& request, Session* session);

  // answers.cpp
  void deliver(Session& session, const wire::Outcome& outcome);
  void report_progress(Session& session, std::uint32_t position);
  void item_failed(Session& session, const wire::ErrorFrame& error);
  void replay(Session& session);
  void lose_all_caches();
  void end_all(ipc::Status status, const std::string& sentence);

  // lost_work.cpp
  bool is_lost(const Session& session) const;
  void recover(Session& session);

  // entry.cpp
  void queue_prefill(Session& session);
  void send_step(Session& session);
  void end_step(Session& session);
  /// The session is answering nothing any more; its caches and tokens stay.
  Answering end_request(Session& session);
  void append(Session& session, std::span<const std::int32_t> tokens);
  std::uint64_t next_id();
  void send_close(std::uint64_t route_id);
  void owe_closes_sent();
  std::uint32_t context_for(const Session& session) const;

  const EntryConfig config;
  EntryPort& port;

  bool ready = false;
  bool stopped = false;
  bool draining = false;
  ipc::RouteState state = ipc::RouteState::kIdle;
  std::uint64_t serial = 0;
  std::uint32_t entry_index = 0;
  std::uint32_t stages = 1;
  std::string reason;

  std::chrono::steady_clock::time_point now{};  // as of the last on_time()
  std::uint64_t next;                           // session and route ids
  std::uint64_t uses = 0;                       // counts requests: the clock of Session::last_used
  std::map<std::uint64_t, std::unique_ptr<Session>> by_id;
  std::unordered_map<std::uint64_t, Session*> by_route_id;
  std::map<std::pair<ipc::ClientId, std::uint64_t>, Session*> requests;
  std::map<ipc::ClientId, std::vector<std::uint64_t>> paused;  // sessions; may name ones that ended
  Rotation prefills;
  Rotation steps;
  std::uint64_t tokens_in_flight = 0;  // of prefill chunks not acknowledged
  std::uint64_t steps_in_flight = 0;
  struct User {
    std::uint64_t sessions = 0;
    std::uint64_t answering = 0;
    std::uint64_t tokens = 0;  // in journals
  };
  std::map<UserId, User> users;  // those with sessions
  std::size_t users_answering = 0;
  std::vector<std::uint64_t> closes_owed;  // to the route once it is ready again
  struct SentClose {
    std::uint64_t route_id;
    std::chrono::steady_clock::time_point when;
  };
  std::deque<SentClose> closes_sent;  // of late, in order; some may have been lost
};

}  // namespace ds4::agent
