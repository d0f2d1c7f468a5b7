#include "ipc/server/server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <deque>
#include <unordered_map>
#include <vector>

#include "ipc/packet.h"
#include "ipc/server/connection.h"
#include "ipc/server/gate.h"
#include "ipc/server/listener.h"
#include "ipc/spin.h"

namespace ds4::ipc {

namespace {

constexpr int kEventsPerTurn = 256;
constexpr int kAcceptsPerTurn = 64;
/// Connections that have not said hello yet. An honest library says it at once, so the oldest of
/// too many is no honest one.
constexpr std::size_t kMaxStrangers = 64;

/// What an epoll event is about: a kind, and the client it belongs to.
enum class Source : std::uint64_t {
  kListener = 0,
  kKick = 1,
  kSocket = 2,
  kDoorbell = 3,
  kLife = 4
};
constexpr int kSourceBits = 3;

std::uint64_t tag(Source source, ClientId id = 0) {
  return id << kSourceBits | static_cast<std::uint64_t>(source);
}

/// Descriptors that the agent needs for everything but clients.
constexpr std::uint64_t kOwnDescriptors = 128;
/// How long run_ready() looks for the next request of a client that has just asked, and for how
/// long at most while one follows another.
constexpr std::chrono::microseconds kLinger{20};
constexpr std::chrono::microseconds kMostLinger{500};
/// More clients than these asking at once: there is enough to do without looking.
constexpr std::size_t kMostLingering = 4;
/// Turns that the clients of one user get before others have had theirs.
constexpr std::uint32_t kTurnsPerUser = 16;

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

struct Server::Impl {
  Impl(const ServerConfig& server_config, RequestHandler& request_handler, Gate group_gate,
       Listener bound)
      : config(server_config),
        most_clients(clients_for_descriptors(server_config.max_clients)),
        handler(request_handler),
        gate(std::move(group_gate)),
        listener(std::move(bound)) {}

  Result<void> start();
  Result<void> watch(int fd, std::uint32_t events, std::uint64_t about);

  // Accepting.
  void accept_all();
  void accept_one(UniqueFd socket);
  void shed_one();
  void shed_stranger();
  std::optional<Refusal> check_limits(uid_t uid) const;
  std::optional<Refusal> check_memory(const Connection& connection, const RegionShape& shape);
  void complain(const Connection& connection, const Refusal& refusal);
  void on_hello(Connection& connection, std::span<const std::byte> packet);

  // Events and turns.
  void on_event(const epoll_event& event);
  void on_socket(Connection& connection);
  void on_end_of(Connection& connection);
  void serve_ready(bool may_linger);
  void linger();
  bool someone_asks();
  void flush();
  void update_kick();

  // Bookkeeping.
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

// ---- Life -----------------------------------------------------------------------------------

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

void Server::run_ready() {
  std::array<epoll_event, kEventsPerTurn> events;
  const int n = ::epoll_wait(impl_->epoll.get(), events.data(), kEventsPerTurn, 0);
  for (int i = 0; i < n; ++i) impl_->on_event(events[static_cast<std::size_t>(i)]);
  impl_->serve_ready(impl_->spin.worth_it());
  impl_->reap();
  impl_->flush();
  impl_->linger();
  impl_->update_kick();
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

// ---- Accepting ------------------------------------------------------------------------------

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

// ---- Events and turns -----------------------------------------------------------------------

void Server::Impl::on_event(const epoll_event& event) {
  switch (static_cast<Source>(event.data.u64 & ((1U << kSourceBits) - 1))) {
    case Source::kListener:
      return accept_all();
    case Source::kKick:
      return;
    case Source::kSocket:
      if (Connection* connection = find(event.data.u64 >> kSourceBits)) on_socket(*connection);
      return;
    case Source::kDoorbell:
      if (Connection* connection = find_client(event.data.u64 >> kSourceBits))
        make_ready(*connection);
      return;
    case Source::kLife:
      if (Connection* connection = find(event.data.u64 >> kSourceBits)) on_end_of(*connection);
      return;
  }
}

void Server::Impl::on_socket(Connection& connection) {
  std::array<std::byte, sizeof(Hello) + 1> buffer;
  const auto packet = receive_packet(connection.socket.get(), buffer, 0);
  if (packet && !*packet) return;
  if (!packet || (*packet)->bytes == 0) {
    if (!connection.session) return forget(connection.id);
    return condemn(connection, Status::kCancelled, "the program hung up");
  }
  if (!connection.session) return on_hello(connection, std::span(buffer).first((*packet)->bytes));
  condemn(connection, Status::kInvalid, "a packet came after the hello");
}

/// A child that was forked may keep the socket, and may not use it.
void Server::Impl::on_end_of(Connection& connection) {
  if (!connection.session) return forget(connection.id);
  condemn(connection, Status::kCancelled, "the program that connected has ended");
}

/// Users take turns: who has many clients gets so many turns, and the rest in the next round.
void Server::Impl::serve_ready(bool may_linger) {
  struct ClientSink final : Session::Sink {
    ClientSink(RequestHandler& request_handler, ClientId client)
        : handler(request_handler), id(client) {}
    void on_request(Request request) override { handler.on_request(id, std::move(request)); }
    void on_space() override { handler.on_space(id); }
    RequestHandler& handler;
    ClientId id;
  };
  for (const auto& [uid, user] : users) user->turns = 0;
  for (const ClientId id : std::exchange(ready, {})) {
    Connection* connection = find_client(id);
    if (connection == nullptr) continue;
    if (++users.at(connection->peer.uid)->turns > kTurnsPerUser && !connection->doom) {
      ready.push_back(id);
      continue;
    }
    connection->is_ready = false;
    if (connection->doom) continue;
    ClientSink sink(handler, id);
    Session& session = *connection->session;
    bool more = session.work(sink);
    if (!more && may_linger && session.was_busy() && lingering.size() < kMostLingering)
      lingering.push_back(id);
    else if (!more)
      more = session.arm();
    if (auto why = connection->session->broken())
      condemn(*connection, Status::kInvalid, std::move(*why));
    else if (more)
      make_ready(*connection);
    make_dirty(*connection);
  }
}

bool Server::Impl::someone_asks() {
  bool any = false;
  for (const ClientId id : lingering) {
    Connection* connection = find_client(id);
    if (connection == nullptr || connection->doom || !connection->session->has_entries()) continue;
    make_ready(*connection);
    any = true;
  }
  return any;
}

/// Programs that ask and wait in turn are answered without a sleep between; see spin.h.
void Server::Impl::linger() {
  if (lingering.empty()) return;
  const auto begin = std::chrono::steady_clock::now();
  auto since = begin;
  bool won = false;
  for (auto now = begin; now - since < kLinger && now - begin < kMostLinger && ready.empty();
       now = std::chrono::steady_clock::now()) {
    bool asked = false;
    for (int i = 0; i < 16 && !asked; ++i) {
      asked = someone_asks();
      relax_cpu();
    }
    if (!asked) continue;
    won = true;
    std::erase_if(lingering, [this](ClientId id) {
      const Connection* connection = find_client(id);
      return connection == nullptr || connection->is_ready;
    });
    serve_ready(true);
    reap();
    flush();
    since = std::chrono::steady_clock::now();
  }
  won ? spin.won() : spin.lost();
  for (const ClientId id : std::exchange(lingering, {}))
    if (Connection* connection = find_client(id)) make_ready(*connection);
  serve_ready(false);  // to arm their wakers
  reap();
  flush();
}

void Server::Impl::flush() {
  for (const ClientId id : std::exchange(dirty, {})) {
    Connection* connection = find_client(id);
    if (connection == nullptr) continue;
    connection->is_dirty = false;
    if (connection->session->flush()) wake_client(*connection);
  }
}

void Server::flush() {
  impl_->flush();
}

void Server::Impl::update_kick() {
  const bool wanted = !ready.empty() || !doomed.empty();
  if (wanted == is_kicked) return;
  is_kicked = wanted;
  std::uint64_t count = 1;
  if (wanted)
    (void)!::write(kick.get(), &count, sizeof(count));
  else
    (void)!::read(kick.get(), &count, sizeof(count));
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

}  // namespace ds4::ipc
