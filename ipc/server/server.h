#pragma once
// The agent's end: accepts clients, hands over their regions, turns their submissions into
// validated requests and their answers into completions. It owns every descriptor of every client
// and trusts none of them; a client that breaks the protocol is hung up on with a sentence, and
// nobody else notices.
//
// Thread rule: everything on one thread, the agent's main loop, which polls poll_fd().
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "engine/base/result.h"
#include "ipc/region.h"
#include "ipc/server/request.h"
#include "ipc/status.h"

namespace ds4::ipc {

using ClientId = std::uint64_t;  // never used twice

class RequestHandler {
 public:
  virtual ~RequestHandler() = default;
  // All are called from Server::run_ready() only. They may call token(), progress(), finish()
  // and can_take(), but neither shut_down() nor run_ready().

  /// A valid request. All but a cancel must be answered with finish() in the end,
  /// whatever happens; ids are unique per client.
  virtual void on_request(ClientId client, Request request) = 0;
  /// The client is gone (hung up, killed, or broke the protocol): cancel all that is its. No call
  /// about it is valid afterwards, though late ones are ignored.
  virtual void on_gone(ClientId client) = 0;
  /// The client has drained its completion ring after can_take() said no.
  virtual void on_space(ClientId client) = 0;
  /// For a log: a program was turned away at the door, or hung up on for breaking the protocol. The
  /// sentence names it and the reason. A hostile program can cause many of these.
  virtual void on_complaint(std::string_view /*sentence*/) {}
};

struct ServerConfig {
  std::string socket_path = kDefaultSocketPath;
  std::string group;  // may connect besides the agent's own user; empty: the agent's own group
  RegionShape most_shape{
      .submission_entries = 1024, .completion_entries = 16384, .arena_tokens = 1U << 18};
  /// Fewer where the process may not have the descriptors for them: listen() raises its soft limit
  /// to the hard one if that helps.
  std::uint32_t max_clients = 1024;
  std::uint32_t max_clients_per_user = 512;
  std::uint64_t max_region_bytes_per_user = 256U << 20;
  /// Of prompts that are still arriving in parts.
  std::uint64_t max_pending_tokens_per_user = 16U << 20;
};

/// What a new client is told; changes with the assignment. With limits.vocabulary 0 there is no
/// model: clients may connect, and every request ends with kRouteNotReady.
struct ModelCard {
  std::string model;
  RequestLimits limits;
  std::uint64_t fingerprint = 0;        // of the model file: what a client may resume with
  std::span<const std::byte> metadata;  // a GGUF of metadata alone; copied into a sealed memfd
};

class Server {
 public:
  /// Binds and listens (replacing a dead agent's socket, refusing to replace a living one's).
  static Result<std::unique_ptr<Server>> listen(const ServerConfig& config,
                                                RequestHandler& handler);
  ~Server();

  /// Readable when run_ready() has work.
  int poll_fd() const;
  void run_ready();

  /// A card that differs from the one before hangs up on the clients that were told the other one:
  /// their tokens mean nothing to the new model. They learn a retryable reason, and the handler
  /// on_gone() from the next run_ready(). An equal card disturbs nobody.
  Result<void> set_model(const ModelCard& card);
  void set_route_state(RouteState state);

  // Answers. Unknown clients and requests that have ended are ignored. A client's completions
  // beyond its ring wait in a private queue; can_take() says whether the ring has room for what one
  // more token may need. A caller that heeds it keeps that queue short; a client whose queue
  // outgrows what its requests in flight can explain is hung up on. While can_take() is false,
  // progress() is dropped.

  /// After false, on_space() follows once there is room (or on_gone()). False for unknown clients.
  bool can_take(ClientId client);
  void token(ClientId client, std::uint64_t request_id, std::int32_t token, std::uint32_t position,
             float logprob);
  void progress(ClientId client, std::uint64_t request_id, std::uint32_t done, std::uint32_t total);
  struct Final {
    Status status = Status::kOkStop;
    std::string sentence;  // sent for errors; empty: describe(status)
    std::uint64_t session_id = 0;
    std::uint32_t prompt_tokens = 0;
    std::uint32_t generated_tokens = 0;
    std::int32_t stop_token = -1;
  };
  void finish(ClientId client, std::uint64_t request_id, const Final& final);
  /// Wakes the clients that have new completions and sleep; call once per turn of the main loop.
  void flush();

  /// Tells every client with a farewell and hangs up, without on_gone(). Afterwards nobody is
  /// accepted and the socket's path is gone. What was finish()ed before still reaches the clients.
  void shut_down(Status status, std::string_view sentence);
  std::size_t clients() const;
  /// The uid of a client's program; the agent's own for clients that are gone.
  std::uint32_t user_of(ClientId client) const;

 private:
  Server();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4::ipc
