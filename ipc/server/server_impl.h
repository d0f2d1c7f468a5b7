#pragma once
// Internal to ipc/server: the server's state. Who may come in is in doors.cpp, who is served when
// in turns.cpp, and what both need, with the public face, in server.cpp.
#include <sys/epoll.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "ipc/server/connection.h"
#include "ipc/server/gate.h"
#include "ipc/server/listener.h"
#include "ipc/server/server.h"
#include "ipc/spin.h"

namespace ds4::ipc {

/// What an epoll event is about: a kind, and the client it belongs to.
enum class Source : std::uint64_t {
  kListener = 0,
  kKick = 1,
  kSocket = 2,
  kDoorbell = 3,
  kLife = 4
};
inline constexpr int kSourceBits = 3;

inline std::uint64_t tag(Source source, ClientId id = 0) {
  return id << kSourceBits | static_cast<std::uint64_t>(source);
}

struct Server::Impl {
  Impl(const ServerConfig& server_config, RequestHandler& request_handler, Gate group_gate,
       Listener bound);

  // ---- doors.cpp: accepting, and saying hello ----
  void accept_all();
  void accept_one(UniqueFd socket);
  void shed_one();
  void shed_stranger();
  std::optional<Refusal> check_limits(uid_t uid) const;
  std::optional<Refusal> check_memory(const Connection& connection, const RegionShape& shape);
  void complain(const Connection& connection, const Refusal& refusal);
  void on_hello(Connection& connection, std::span<const std::byte> packet);

  // ---- turns.cpp: events, and who is served when ----
  void on_event(const epoll_event& event);
  void on_socket(Connection& connection);
  void on_end_of(Connection& connection);
  void serve_ready(bool may_linger);
  void linger();
  bool someone_asks();
  void flush();
  void update_kick();

  // ---- server.cpp: life and bookkeeping ----
  Result<void> start();
  Result<void> watch(int fd, std::uint32_t events, std::uint64_t about);
  Connection* find(ClientId id);
  Connection* find_client(ClientId id);
  void make_ready(Connection& connection);
  void make_dirty(Connection& connection);
  void after_answer(Connection& connection, bool needed_turn);
  void condemn(Connection& connection, Status status, std::string sentence);
  void reap();
  void forget(ClientId id);
  bool matches_card(const ModelCard& model_card) const;

  /// All connections of one uid, strangers too.
  struct User {
    explicit User(std::uint64_t pending_tokens) : pending(pending_tokens) {}
    std::uint32_t connections = 0;
    std::uint64_t region_bytes = 0;
    TokenBudget pending;
    std::uint32_t turns = 0;  // of this round of serve_ready()
  };

  ServerConfig config;
  const std::uint64_t most_clients;
  RequestHandler& handler;
  Gate gate;
  std::optional<Listener> listener;
  UniqueFd epoll;
  UniqueFd kick;     // keeps poll_fd() readable while there is work that no descriptor announces
  UniqueFd reserve;  // given up for a moment when descriptors run out, so that accept can refuse
  bool is_kicked = false;

  std::unordered_map<uid_t, std::unique_ptr<User>> users;  // outlive their connections
  std::unordered_map<ClientId, std::unique_ptr<Connection>> connections;
  std::deque<ClientId> strangers;
  std::vector<ClientId> ready;
  std::vector<ClientId> dirty;
  std::vector<ClientId> lingering;  // had their turn, and their wakers are not armed yet
  AdaptiveSpin spin;
  std::vector<ClientId> doomed;
  ClientId next_id = 1;
  std::size_t clients = 0;

  WelcomeCard card;
  UniqueFd metadata_fd;
  Mapping metadata;  // the same bytes, to compare a new card with
};

}  // namespace ds4::ipc
