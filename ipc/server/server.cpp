#include "ipc/server/server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "ipc/server/server_impl.h"

namespace ds4::ipc {

namespace {

/// Descriptors that the agent needs for everything but clients.
constexpr std::uint64_t kOwnDescriptors = 128;

/// How many clients the process's limit on descriptors allows, after raising the limit where it
/// can be raised.
std::uint64_t clients_for_descriptors(std::uint64_t wanted) {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  const rlim_t needed = kOwnDescriptors + wanted * kDescriptorsPerClient;
  if (limit.rlim_cur < needed && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = std::min(needed, limit.rlim_max);
    ::setrlimit(RLIMIT_NOFILE, &limit);
    ::getrlimit(RLIMIT_NOFILE, &limit);
  }
  if (limit.rlim_cur <= kOwnDescriptors) return 1;
  return std::clamp<std::uint64_t>((limit.rlim_cur - kOwnDescriptors) / kDescriptorsPerClient, 1,
                                   wanted);
}

void ignore_sigpipe() {
  struct sigaction action = {};
  if (::sigaction(SIGPIPE, nullptr, &action) != 0 || action.sa_handler != SIG_DFL) return;
  action.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &action, nullptr);
}

}  // namespace

// ---- Life -----------------------------------------------------------------------------------

Server::Impl::Impl(const ServerConfig& server_config, RequestHandler& request_handler,
                   Gate group_gate, Listener bound)
    : config(server_config),
      most_clients(clients_for_descriptors(server_config.max_clients)),
      handler(request_handler),
      gate(std::move(group_gate)),
      listener(std::move(bound)) {}

Server::Server() = default;
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::listen(const ServerConfig& config,
                                               RequestHandler& handler) {
  ignore_sigpipe();
  DS4_ASSIGN(Gate gate, Gate::for_group(config.group));
  DS4_ASSIGN(Listener listener, Listener::bind(config.socket_path, gate.group()));
  std::unique_ptr<Server> server(new Server);
  server->impl_ = std::make_unique<Impl>(config, handler, std::move(gate), std::move(listener));
  DS4_TRY(server->impl_->start());
  return server;
}

Result<void> Server::Impl::start() {
  epoll.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return fail_errno("make an epoll");
  kick.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!kick) return fail_errno("make an eventfd");
  reserve.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!reserve) return fail_errno("open /dev/null");
  DS4_TRY(watch(kick.get(), EPOLLIN, tag(Source::kKick)));
  return watch(listener->fd(), EPOLLIN, tag(Source::kListener));
}

Result<void> Server::Impl::watch(int fd, std::uint32_t events, std::uint64_t about) {
  epoll_event event = {};
  event.events = events;
  event.data.u64 = about;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0) return fail_errno("watch a client");
  return {};
}

int Server::poll_fd() const {
  return impl_->epoll.get();
}
std::size_t Server::clients() const {
  return impl_->clients;
}

std::uint32_t Server::user_of(ClientId client) const {
  const Connection* connection = impl_->find_client(client);
  return connection != nullptr ? connection->peer.uid : ::geteuid();
}

void Server::shut_down(Status status, std::string_view sentence) {
  flush();
  for (const auto& [id, connection] : impl_->connections) {
    if (connection->session)
      say_farewell(*connection, status, sentence);
    else
      say_refusal(connection->socket.get(), {status, std::string(sentence)});
  }
  while (!impl_->connections.empty()) impl_->forget(impl_->connections.begin()->first);
  impl_->listener.reset();
  impl_->doomed.clear();
  impl_->update_kick();
}

// ---- Bookkeeping ----------------------------------------------------------------------------

Connection* Server::Impl::find(ClientId id) {
  const auto at = connections.find(id);
  return at == connections.end() ? nullptr : at->second.get();
}

/// Only those who are past the handshake.
Connection* Server::Impl::find_client(ClientId id) {
  Connection* connection = find(id);
  return connection != nullptr && connection->session ? connection : nullptr;
}

void Server::Impl::make_ready(Connection& connection) {
  if (!std::exchange(connection.is_ready, true)) ready.push_back(connection.id);
}

void Server::Impl::make_dirty(Connection& connection) {
  if (!std::exchange(connection.is_dirty, true)) dirty.push_back(connection.id);
}

void Server::Impl::condemn(Connection& connection, Status status, std::string sentence) {
  if (connection.doom) return;
  connection.doom = Refusal{status, std::move(sentence)};
  doomed.push_back(connection.id);
}

void Server::Impl::reap() {
  while (!doomed.empty()) {  // on_gone() may answer others, and condemn them by that
    for (const ClientId id : std::exchange(doomed, {})) {
      Connection* connection = find(id);
      if (connection == nullptr) continue;
      const Refusal& doom = *connection->doom;
      if (doom.status == Status::kInvalid)
        handler.on_complaint(fmt::format("hung up on {}: {}",
                                         describe_program(connection->peer, connection->name),
                                         doom.sentence));
      if (connection->session->flush()) wake_client(*connection);
      say_farewell(*connection, doom.status, doom.sentence);
      forget(id);
      handler.on_gone(id);
    }
  }
}

void Server::Impl::forget(ClientId id) {
  const auto at = connections.find(id);
  if (at == connections.end()) return;
  Connection& connection = *at->second;
  // Explicitly: the client's copy keeps the doorbell's file description, and so its watch, alive.
  if (connection.doorbell)
    ::epoll_ctl(epoll.get(), EPOLL_CTL_DEL, connection.doorbell.get(), nullptr);
  const auto user = users.find(connection.peer.uid);
  if (connection.session) {
    --clients;
    user->second->region_bytes -= connection.session->region().bytes();
  } else {
    std::erase(strangers, id);
  }
  connections.erase(at);  // before the user, whose budget its session gives back to
  if (--user->second->connections == 0) users.erase(user);
}

// ---- Model and answers ----------------------------------------------------------------------

bool Server::Impl::matches_card(const ModelCard& other) const {
  const RequestLimits& a = card.limits;
  const RequestLimits& b = other.limits;
  const std::span<const std::byte> bytes = metadata.bytes();
  return card.model == other.model && card.fingerprint == other.fingerprint &&
         a.vocabulary == b.vocabulary && a.context == b.context &&
         a.max_requests == b.max_requests && a.max_stop_tokens == b.max_stop_tokens &&
         std::equal(bytes.begin(), bytes.end(), other.metadata.begin(), other.metadata.end());
}

Result<void> Server::set_model(const ModelCard& model_card) {
  if (impl_->matches_card(model_card)) return {};
  UniqueFd fd;
  Mapping mapping;
  if (!model_card.metadata.empty()) {
    DS4_ASSIGN(fd, make_sealed_memfd("ds4-metadata", model_card.metadata));
    DS4_ASSIGN(mapping,
               Mapping::map(fd.get(), model_card.metadata.size(), Mapping::Access::kReadOnly));
  }
  impl_->card.model = model_card.model;
  impl_->card.fingerprint = model_card.fingerprint;
  impl_->card.limits = model_card.limits;
  impl_->card.metadata_fd = fd.get();
  impl_->card.metadata_bytes = model_card.metadata.size();
  impl_->metadata_fd = std::move(fd);
  impl_->metadata = std::move(mapping);
  for (const auto& [id, connection] : impl_->connections)
    if (connection->session)
      impl_->condemn(*connection, Status::kAgentShutdown, "the model has changed; connect again");
  impl_->update_kick();
  return {};
}

void Server::set_route_state(RouteState state) {
  impl_->card.route_state = state;
  for (const auto& [id, connection] : impl_->connections)
    if (connection->session) connection->session->set_route_state(state);
}

/// An answer may have left something queued that only a turn can move.
void Server::Impl::after_answer(Connection& connection, bool needed_turn) {
  make_dirty(connection);
  if (auto why = connection.session->broken())
    condemn(connection, Status::kInvalid, std::move(*why));
  else if (!needed_turn && connection.session->needs_turn())
    make_ready(connection);
  update_kick();
}

bool Server::can_take(ClientId client) {
  Connection* connection = impl_->find_client(client);
  if (connection == nullptr || connection->doom) return false;
  const bool needed_turn = connection->session->needs_turn();
  const bool can = connection->session->can_take();
  if (!can && !needed_turn) impl_->make_ready(*connection);
  if (!can) impl_->update_kick();
  return can;
}

void Server::token(ClientId client, std::uint64_t request_id, std::int32_t token,
                   std::uint32_t position, float logprob) {
  Connection* connection = impl_->find_client(client);
  if (connection == nullptr) return;
  const bool needed_turn = connection->session->needs_turn();
  connection->session->token(request_id, token, position, logprob);
  impl_->after_answer(*connection, needed_turn);
}

void Server::progress(ClientId client, std::uint64_t request_id, std::uint32_t done,
                      std::uint32_t total) {
  Connection* connection = impl_->find_client(client);
  if (connection == nullptr) return;
  const bool needed_turn = connection->session->needs_turn();
  connection->session->progress(request_id, done, total);
  impl_->after_answer(*connection, needed_turn);
}

void Server::finish(ClientId client, std::uint64_t request_id, const Final& final) {
  Connection* connection = impl_->find_client(client);
  if (connection == nullptr) return;
  const bool needed_turn = connection->session->needs_turn();
  connection->session->finish(request_id, final);
  impl_->after_answer(*connection, needed_turn);
}

void Server::flush() {
  impl_->flush();
}

}  // namespace ds4::ipc
