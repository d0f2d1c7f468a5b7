// The way in: from a connection at the listener to a client with a region, or a sentence that says
// why not.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "ipc/packet.h"
#include "ipc/server/server_impl.h"

namespace ds4::ipc {

namespace {

constexpr int kAcceptsPerTurn = 64;
/// Connections that have not said hello yet. An honest library says it at once, so the oldest of
/// too many is no honest one.
constexpr std::size_t kMaxStrangers = 64;

}  // namespace

void Server::Impl::accept_all() {
  for (int i = 0; i < kAcceptsPerTurn && listener; ++i) {
    UniqueFd socket(::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket) {
      accept_one(std::move(socket));
    } else if (errno == EMFILE || errno == ENFILE) {
      return shed_one();
    } else if (errno != EINTR && errno != ECONNABORTED) {
      return;
    }
  }
}

/// Out of descriptors: the pending connection would keep the listener readable for ever.
void Server::Impl::shed_one() {
  reserve.reset();
  UniqueFd socket(::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (socket)
    say_refusal(socket.get(), {Status::kBusy,
                               "the agent has run out of file descriptors; "
                               "try again later or raise its LimitNOFILE"});
  socket.reset();
  reserve.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

void Server::Impl::accept_one(UniqueFd socket) {
  const Result<PeerIdentity> peer = identify_peer(socket.get());
  if (!peer) return say_refusal(socket.get(), {Status::kInternal, peer.error().message});
  for (const auto& refusal : {gate.check(*peer), check_limits(peer->uid)}) {
    if (!refusal) continue;
    handler.on_complaint(
        fmt::format("refused {}: {}", describe_program(*peer, {}), refusal->sentence));
    return say_refusal(socket.get(), *refusal);
  }

  auto connection = std::make_unique<Connection>();
  connection->id = next_id++;
  connection->peer = *peer;
  connection->socket = std::move(socket);
  connection->life = watch_life(connection->socket.get(), peer->pid);
  auto watched =
      watch(connection->socket.get(), EPOLLIN | EPOLLRDHUP, tag(Source::kSocket, connection->id));
  if (watched && connection->life)
    watched = watch(connection->life.get(), EPOLLIN, tag(Source::kLife, connection->id));
  if (!watched)
    return say_refusal(connection->socket.get(), {Status::kBusy, watched.error().message});
  strangers.push_back(connection->id);
  auto& user = users[peer->uid];
  if (!user) user = std::make_unique<User>(config.max_pending_tokens_per_user);
  ++user->connections;
  connections.emplace(connection->id, std::move(connection));
  while (strangers.size() > kMaxStrangers) shed_stranger();
}

/// The oldest goes, unless its hello has come and only waited for its turn behind a flood of
/// others.
void Server::Impl::shed_stranger() {
  const ClientId oldest = strangers.front();
  on_socket(*find(oldest));
  if (strangers.empty() || strangers.front() != oldest) return;
  const Refusal refusal{Status::kBusy, "too many programs connect at once"};
  complain(*find(oldest), refusal);
  say_refusal(find(oldest)->socket.get(), refusal);
  forget(oldest);
}

std::optional<Refusal> Server::Impl::check_limits(uid_t uid) const {
  if (connections.size() >= most_clients)
    return Refusal{Status::kBusy,
                   fmt::format("{} programs are connected, which is the most{}", connections.size(),
                               most_clients < config.max_clients
                                   ? " this agent has file descriptors for; raise its LimitNOFILE"
                                   : "")};
  const auto at = users.find(uid);
  if (at != users.end() && at->second->connections >= config.max_clients_per_user)
    return Refusal{
        Status::kBusy,
        fmt::format("{} programs of user {} are connected, which is the most for one user",
                    at->second->connections, uid)};
  return std::nullopt;
}

std::optional<Refusal> Server::Impl::check_memory(const Connection& connection,
                                                  const RegionShape& shape) {
  const uid_t uid = connection.peer.uid;
  const std::uint64_t held = users.at(uid)->region_bytes;
  if (held + shape.region_bytes() <= config.max_region_bytes_per_user) return std::nullopt;
  return Refusal{Status::kBusy,
                 fmt::format("the programs of user {} hold {} bytes of shared memory, and {} more "
                             "exceed the {} of one user: ask for smaller rings, or end some",
                             uid, held, shape.region_bytes(), config.max_region_bytes_per_user)};
}

void Server::Impl::complain(const Connection& connection, const Refusal& refusal) {
  handler.on_complaint(fmt::format(
      "refused {}: {}", describe_program(connection.peer, connection.name), refusal.sentence));
}

void Server::Impl::on_hello(Connection& connection, std::span<const std::byte> packet) {
  HelloVerdict verdict = judge_hello(packet, config.most_shape);
  if (!verdict.refusal) verdict.refusal = check_memory(connection, verdict.shape);
  if (verdict.refusal) {
    complain(connection, *verdict.refusal);
    say_refusal(connection.socket.get(), *verdict.refusal);
    return forget(connection.id);
  }
  User& user = *users.at(connection.peer.uid);
  Result<void> welcomed = welcome_client(connection, verdict, card, &user.pending);
  if (!welcomed) {
    complain(connection, {Status::kBusy, welcomed.error().message});
    say_refusal(connection.socket.get(), {Status::kBusy, welcomed.error().message});
    return forget(connection.id);
  }
  user.region_bytes += connection.session->region().bytes();
  std::erase(strangers, connection.id);
  ++clients;
  // Edge-triggered and never read: the client shares the doorbell's file description, could take
  // its O_NONBLOCK away and empty it, and a read would then block the agent. Every ring is an edge.
  welcomed =
      watch(connection.doorbell.get(), EPOLLIN | EPOLLET, tag(Source::kDoorbell, connection.id));
  if (!welcomed) return condemn(connection, Status::kBusy, welcomed.error().message);
  make_ready(connection);  // to arm its waker
}

}  // namespace ds4::ipc
