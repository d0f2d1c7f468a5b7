#pragma once
// The entry: turns the requests of this machine's clients into work for the route, and the route's
// tokens into answers. Pure: no sockets, no threads, no clock of its own; everything it wants done
// goes through EntryPort, so tests drive it with a fake.
//
// It keeps, per session, every token so far (the journal) with its rolling hash, at most a bounded
// number of prefill chunks in flight, and one decode step at a time. A client that does not drain
// its ring pauses its own requests. When the route goes, unfinished requests end with a typed,
// retryable error; no token is ever delivered twice.
//
// What a request leaves behind. An answer that ends well, or is cancelled, leaves its prompt and
// its tokens in the session if keep_session asked for that (the stop token too, though it is not
// delivered, so that the next turn of a chat follows a finished one); otherwise the session ends.
// An error leaves a session that the request continued as it was before the request, whatever
// keep_session said, so the same request may simply be sent again; a new session ends. A final
// names the session exactly if it lives on. The last token of an answer is in the journal but has
// not been through the model: it goes first when the session continues, and an empty prompt
// continues with it alone.
//
// Caches come and go under the journal: when the route has changed, a stage no longer holds the
// prefix, or its memory was needed elsewhere, the session is fed again from its first token, unseen
// by the client. A route that runs out of memory for caches makes this entry give up those of its
// kept, idle sessions, longest unused first, before it says busy.
#include <chrono>
#include <cstdint>
#include <memory>
#include <string_view>

#include "agent/wire/frame.h"
#include "ipc/server/server.h"

namespace ds4::agent {

class EntryPort {
 public:
  virtual ~EntryPort() = default;
  /// Towards the first stage, in order.
  virtual void send_work(wire::WorkItem item) = 0;
  virtual void send_close(std::uint64_t session) = 0;
  virtual void send_fork(const wire::ForkItem& fork) = 0;
  /// Whose program the client is; it is connected.
  virtual std::uint32_t user_of(ipc::ClientId client) = 0;
  // Towards the client; the same meaning as in ipc::Server.
  virtual bool can_take(ipc::ClientId client) = 0;
  virtual void token(ipc::ClientId client, std::uint64_t request, std::int32_t token,
                     std::uint32_t position, float logprob) = 0;
  virtual void progress(ipc::ClientId client, std::uint64_t request, std::uint32_t done,
                        std::uint32_t total) = 0;
  virtual void finish(ipc::ClientId client, std::uint64_t request,
                      const ipc::Server::Final& final) = 0;
};

struct EntryConfig {
  std::uint32_t context = 0;              // positions a session may hold
  std::uint32_t prefill_chunk = 512;      // tokens of one work item
  std::uint32_t chunks_in_flight = 2;     // of one session; one more than stages, if that is more
  std::uint32_t tokens_in_flight = 4096;  // of all sessions' prefill; users take turns for it
  /// Decode steps of all sessions, while several users want answers; they take turns for it. One
  /// user alone is not held back.
  std::uint32_t steps_in_flight = 64;
  /// How long the route may owe a session an answer before its work counts as lost, besides a tenth
  /// of a second for every prompt token that is under way; doubled by each attempt. 0: for ever.
  std::chrono::milliseconds lost_after{0};
  std::uint32_t max_sessions = 1024;  // kept and active; beyond: busy
  std::uint32_t max_sessions_per_user = 512;
  /// Tokens that one user's sessions may hold together, which is memory of this process.
  std::uint64_t max_tokens_per_user = 64U << 20;
  /// Where session ids begin. Drawn at random by every process, so that sessions of different
  /// agents, and of one agent before and after a restart, are never taken for one another.
  std::uint64_t session_base = 1;
};

/// What the entry may use now. `serial` changes with every change of route, so sessions of an
/// earlier one are known to be lost.
struct RouteView {
  bool ready = false;
  ipc::RouteState state = ipc::RouteState::kIdle;
  std::uint64_t serial = 0;
  std::uint32_t entry_index = 0;  // this agent's stage
  std::string_view reason;        // when not ready: why, for the client's sentence
  std::uint32_t stages = 1;       // of the route
};

class Entry {
 public:
  Entry(const EntryConfig& config, EntryPort& port);
  ~Entry();

  /// A fork of a session that is answering is refused as busy; the copy keeps its tokens even if
  /// the caches could not be copied, and is then fed again when it goes on. A close_session ends
  /// the request that is using the session as cancelled, then itself.
  void on_request(ipc::ClientId client, ipc::Request request);
  void on_gone(ipc::ClientId client);
  void on_space(ipc::ClientId client);
  /// Of the current epoch. What concerns no session of this entry (any more) is ignored.
  void on_outcome(const wire::Outcome& outcome);
  void on_error(const wire::ErrorFrame& error);
  /// Call at least once a second. A request whose work the route has had for too long without a
  /// word is fed again from its first token, as is one whose cache some stage has lost: some frame
  /// was lost. If that helps nothing, it ends with kPeerLost.
  void on_time(std::chrono::steady_clock::time_point now);
  /// Not ready: requests in progress end with kPeerLost. Another serial: every cache is lost;
  /// requests in progress go on by replay if the new route is ready.
  void on_route(const RouteView& route);
  /// Ends everything: the agent is stopping. Later requests end with kAgentShutdown.
  void shut_down();

  std::size_t sessions() const;  // kept and active
  std::size_t active_requests() const;

  /// True: new requests end as busy, for planned work on this machine; those that run go on.
  void set_draining(bool on);
  bool draining() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4::agent
