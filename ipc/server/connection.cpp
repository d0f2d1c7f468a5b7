#include "ipc/server/connection.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>

#include "ipc/packet.h"

namespace ds4::ipc {

namespace {

struct WakePipe {
  UniqueFd read;
  UniqueFd write;
};

// A pipe rather than an eventfd: the client holds only its read end, so it can neither fill it nor
// take away the write end's O_NONBLOCK, and the agent's death shows as a hang-up on it.
Result<WakePipe> make_wake_pipe() {
  std::array<int, 2> ends = {-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno("make a wake pipe");
  WakePipe pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
  ::fcntl(pipe.write.get(), F_SETPIPE_SZ, 4096);  // best effort: it holds a few bytes at most
  return pipe;
}

Welcome make_welcome(const WelcomeCard& card, std::uint16_t minor, std::uint64_t region_bytes) {
  Welcome welcome;
  welcome.minor = minor;
  welcome.route_state = static_cast<std::uint32_t>(card.route_state);
  welcome.region_bytes = region_bytes;
  welcome.metadata_bytes = card.metadata_bytes;
  welcome.vocabulary = card.limits.vocabulary;
  welcome.context = card.limits.context;
  welcome.max_requests = card.limits.max_requests;
  welcome.max_stop_tokens = card.limits.max_stop_tokens;
  if (minor >= kForkMinor) welcome.fingerprint = card.fingerprint;
  put_text(welcome.model, card.model);
  return welcome;
}

}  // namespace

std::string describe_program(const PeerIdentity& peer, std::string_view name) {
  if (name.empty()) return fmt::format("pid {} of user {}", peer.pid, peer.uid);
  return fmt::format("pid {} ({}) of user {}", peer.pid, name, peer.uid);
}

Result<void> welcome_client(Connection& connection, const HelloVerdict& verdict,
                            const WelcomeCard& card, TokenBudget* budget) {
  DS4_ASSIGN(Region::Created created, Region::create(verdict.shape));
  UniqueFd doorbell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!doorbell) return fail_errno("make a doorbell");
  DS4_ASSIGN(WakePipe pipe, make_wake_pipe());
  auto session = std::make_unique<Session>(std::move(created.region), card.limits, budget);
  session->set_route_state(card.route_state);

  const Welcome welcome = make_welcome(card, verdict.minor, verdict.shape.region_bytes());
  const std::array<int, 4> fds = {created.fd.get(), doorbell.get(), pipe.read.get(),
                                  card.metadata_fd};
  DS4_TRY(send_packet(connection.socket.get(), std::as_bytes(std::span(&welcome, 1)),
                      std::span(fds).first(card.metadata_bytes > 0 ? 4 : 3)));
  connection.name = verdict.name;
  connection.doorbell = std::move(doorbell);
  connection.wake = std::move(pipe.write);
  connection.session = std::move(session);
  return {};
}

void say_farewell(const Connection& connection, Status status, std::string_view sentence) {
  const Farewell farewell = make_farewell(status, sentence);
  (void)send_packet(connection.socket.get(), std::as_bytes(std::span(&farewell, 1)));
}

void say_refusal(int socket, const Refusal& refusal) {
  const Welcome welcome = make_refusal(refusal);
  (void)send_packet(socket, std::as_bytes(std::span(&welcome, 1)));
}

void wake_client(const Connection& connection) {
  const char byte = 0;
  while (::write(connection.wake.get(), &byte, 1) < 0 && errno == EINTR) {
  }
}

}  // namespace ds4::ipc
