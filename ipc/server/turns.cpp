// What happens in one turn of the agent's loop: events make clients ready, the ready ones are
// served, and who sleeps is woken once.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "ipc/packet.h"
#include "ipc/server/server_impl.h"

namespace ds4::ipc {

namespace {

constexpr int kEventsPerTurn = 256;
/// How long run_ready() looks for the next request of a client that has just asked, and for how
/// long at most while one follows another.
constexpr std::chrono::microseconds kLinger{20};
constexpr std::chrono::microseconds kMostLinger{500};
/// More clients than these asking at once: there is enough to do without looking.
constexpr std::size_t kMostLingering = 4;
/// Turns that the clients of one user get before others have had theirs.
constexpr std::uint32_t kTurnsPerUser = 16;

}  // namespace

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

}  // namespace ds4::ipc
