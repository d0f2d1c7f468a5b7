#include "agent/link/links.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <initializer_list>
#include <map>
#include <mutex>
#include <zmq.hpp>

#include "agent/link/link_probe.h"
#include "agent/link/zap.h"
#include "agent/log/log.h"

namespace ds4::agent {
namespace {

constexpr int kWorkQueue = 256;  // frames of one link that wait to be sent
constexpr int kPingQueue = 4;
constexpr int kReplyQueue = 64;     // to one ds4ctl
constexpr int kFarewellMs = 50;     // for the last closings and ping of an agent that stops
constexpr int kHandshakeMs = 2000;  // for a connection to prove its key
constexpr std::size_t kMaxParts = 4;

Error to_error(const zmq::error_t& error, std::string_view doing) {
  ErrorCode code = ErrorCode::kIo;
  std::string why = error.what();
  switch (error.num()) {
    case EADDRINUSE:
      code = ErrorCode::kUnavailable;
      why = "another program (another ds4d?) listens there already: stop it, or set listen.address";
      break;
    case EADDRNOTAVAIL:
    case ENODEV:
      code = ErrorCode::kInvalidArgument;
      why = "no interface of this machine has that address: correct listen.address";
      break;
    case EINVAL:
      code = ErrorCode::kInvalidArgument;
      why = "it is not of the form tcp://host:port";
      break;
    case EACCES:
      code = ErrorCode::kPermission;
      break;
    default:
      break;
  }
  return Error{code, fmt::format("{}: {}", doing, why)};
}

std::span<const std::byte> bytes_of(const zmq::message_t& message) {
  return {static_cast<const std::byte*>(message.data()), message.size()};
}

/// The streams as they lie, without a copy: the message owns the vector and frees it when sent.
template <typename T>
zmq::message_t adopt(std::vector<T> values) {
  if (values.empty()) return zmq::message_t();
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  zmq::message_t message(
      owned->data(), owned->size() * sizeof(T),
      [](void*, void* hint) { delete static_cast<std::vector<T>*>(hint); }, owned.get());
  (void)owned.release();  // not before nothing can fail any more
  return message;
}

std::optional<zmq::message_t> no_streams() {
  return std::nullopt;
}

std::uint64_t now_us() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(now / std::chrono::microseconds(1));
}

struct Link {
  zmq::socket_t work;
  zmq::socket_t pings;
  wire::LinkFigures figures = {};
  // Of the last ping from there.
  std::uint64_t heard_at_us = 0;
  std::uint64_t heard_sent_us = 0;
};

zmq::const_buffer buffer_of(const keys::KeyBytes& key) {
  return zmq::buffer(key.data(), key.size());
}

}  // namespace

struct Links::Impl {
  Impl(const LinkConfig& settings, const keys::Gate& who) : config(settings), gate(who) {
    if (config.key) zap.emplace(context);
  }

  const LinkConfig config;
  const keys::Gate& gate;
  zmq::context_t context{1};
  std::optional<ZapHandler> zap;
  zmq::socket_t router{context, zmq::socket_type::router};
  /// Held where a work socket or the counts of what was sent are used, and where `links` changes:
  /// then only the main loop's thread reads it without.
  mutable std::mutex sending;
  std::map<std::uint32_t, Link> links;               // by stage
  std::map<keys::KeyBytes, std::uint32_t> stage_of;  // the other stages of the route
  std::uint64_t connected_us = 0;                    // when the links were made
  std::string address;
  std::uint64_t dropped = 0;
  std::uint64_t refused = 0;
  std::vector<zmq::message_t> parts;  // of the message being received
  std::vector<pollfd> polled;

  bool secure() const { return config.key.has_value(); }

  /// `server`: the key that the other side has to prove.
  zmq::socket_t dial(const std::string& to, const std::optional<keys::PublicKey>& server, int queue,
                     bool only_connected) {
    zmq::socket_t socket(context, zmq::socket_type::dealer);
    const int timeout_ms = static_cast<int>(config.timeout.count());
    socket.set(zmq::sockopt::linger, kFarewellMs);
    socket.set(zmq::sockopt::sndhwm, queue);
    socket.set(zmq::sockopt::immediate, only_connected ? 1 : 0);
    socket.set(zmq::sockopt::ipv6, to.find('[') == std::string::npos ? 0 : 1);
    // A machine that lost its power sends no FIN: without heartbeats its connection would look
    // alive for as long as TCP retransmits, and nothing would reach it after it is back.
    socket.set(zmq::sockopt::heartbeat_ivl, std::max(1, timeout_ms / 2));
    socket.set(zmq::sockopt::heartbeat_timeout, timeout_ms);
    socket.set(zmq::sockopt::reconnect_ivl, 50);
    socket.set(zmq::sockopt::reconnect_ivl_max, 500);
    socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(wire::kMaxControlBytes));
    if (server) {
      socket.set(zmq::sockopt::curve_serverkey, buffer_of(server->bytes));
      socket.set(zmq::sockopt::curve_publickey, buffer_of(config.key->public_key.bytes));
      socket.set(zmq::sockopt::curve_secretkey, buffer_of(config.key->secret));
    }
    socket.connect(to);
    return socket;
  }

  void listen() {
    router.set(zmq::sockopt::linger, 0);
    router.set(zmq::sockopt::router_mandatory, 1);
    router.set(zmq::sockopt::sndhwm, kReplyQueue);
    router.set(zmq::sockopt::rcvhwm, kWorkQueue);
    router.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(config.max_message_bytes));
    router.set(zmq::sockopt::ipv6, config.address.find('[') == std::string::npos ? 0 : 1);
    router.set(zmq::sockopt::handshake_ivl, kHandshakeMs);
    if (secure()) {
      router.set(zmq::sockopt::curve_server, true);
      router.set(zmq::sockopt::curve_secretkey, buffer_of(config.key->secret));
      router.set(zmq::sockopt::zap_domain, kZapDomain);
    }
    router.bind(config.address);
    address = router.get(zmq::sockopt::last_endpoint);
  }

  /// Adds the socket to what is polled. True if it has something already.
  bool watch(const zmq::socket_ref& socket) {
    polled.push_back({socket.get(zmq::sockopt::fd), POLLIN, 0});
    return (socket.get(zmq::sockopt::events) & ZMQ_POLLIN) != 0;
  }

  void answer_door() {
    if (!zap) return;
    zap->answer([this](const keys::KeyBytes& key) { return gate.admits(key); },
                [this](const keys::KeyBytes& key) { refuse(key); });
  }

  void refuse(const keys::KeyBytes& key) {
    if (refused++ % 1000 != 0) return;
    log(LogLevel::kWarning,
        "refused a connection ({} so far): its key ...:{} is neither trusted here nor of this "
        "agent's route",
        refused, keys::to_text({keys::KeyRole::kNode, key}).substr(5));
  }

  /// All parts or, if the queue is full, none.
  bool send(zmq::socket_t& socket, std::span<zmq::message_t> messages) {
    try {
      for (std::size_t i = 0; i < messages.size(); ++i) {
        const auto more =
            i + 1 < messages.size() ? zmq::send_flags::sndmore : zmq::send_flags::none;
        // Only the first part can find the queue full: the library takes a message whole.
        if (!socket.send(messages[i], more | zmq::send_flags::dontwait)) return false;
      }
      return true;
    } catch (const zmq::error_t&) {
      return false;  // to the caller as unreachable as a full queue
    }
  }

  Result<void> send(std::uint32_t stage, std::span<zmq::message_t> messages) {
    std::uint64_t bytes = 0;
    for (const zmq::message_t& message : messages) bytes += message.size();
    const std::lock_guard lock(sending);
    const auto link = links.find(stage);
    if (link == links.end()) {
      return fail(ErrorCode::kUnavailable, fmt::format("there is no link to stage {}", stage));
    }
    if (!send(link->second.work, messages)) {
      return fail(ErrorCode::kUnavailable,
                  fmt::format("stage {} takes no frames: as many as may wait for it do", stage));
    }
    ++link->second.figures.frames_sent;
    link->second.figures.bytes_sent += bytes;
    return {};
  }

  /// `make_streams` gives the part behind the header, if there is one.
  template <typename Frame, typename MakeStreams>
  Result<void> send(std::uint32_t stage, wire::MessageKind kind, const Frame& frame,
                    MakeStreams&& make_streams) {
    try {
      std::vector<zmq::message_t> messages;
      messages.emplace_back(wire::encode_kind(kind));
      messages.emplace_back(wire::encode(frame));
      if (std::optional<zmq::message_t> streams = make_streams()) {
        messages.push_back(*std::move(streams));
      }
      return send(stage, messages);
    } catch (const std::exception& error) {  // no memory, in the library's words or in C++'s
      return fail(ErrorCode::kResourceExhausted,
                  fmt::format("a frame for stage {} could not be made: {}", stage, error.what()));
    }
  }

  /// A message of these parts. Whoever is not there, or has a full queue, misses them.
  void offer(zmq::socket_t& socket, std::initializer_list<std::string_view> texts) {
    try {
      std::vector<zmq::message_t> messages(texts.begin(), texts.end());
      (void)send(socket, messages);
    } catch (const std::exception&) {
      // No memory for it: it is missed as well.
    }
  }

  /// One message, all its parts; false if there is none.
  bool receive_parts() {
    parts.clear();
    zmq::message_t part;
    try {
      if (!router.recv(part, zmq::recv_flags::dontwait)) return false;
      while (true) {
        const bool more = part.more();
        if (parts.size() <= kMaxParts) parts.push_back(std::move(part));
        if (!more) return true;
        part.rebuild();
        (void)router.recv(part);  // the parts of one message arrive together
      }
    } catch (const zmq::error_t&) {
      return false;
    }
  }

  /// Who sent `parts`, and whether he may send such a message.
  Result<void> judge(Incoming& message) const {
    if (!secure()) {
      message.may_command = true;
      return {};
    }
    const auto key = proven_key(parts[1]);
    if (!key || !gate.admits(*key))
      return fail(ErrorCode::kPermission, "its sender is not trusted");
    message.may_command = gate.may_command(*key);
    if (message.kind == wire::MessageKind::kProbe) return {};  // that is all a prober may send
    if (message.kind == wire::MessageKind::kControl &&
        (message.may_command || gate.is_peer(*key))) {
      return {};
    }
    const auto found = stage_of.find(*key);
    if (found == stage_of.end() || !gate.is_peer(*key)) {
      return fail(ErrorCode::kPermission, "its sender is no node of this agent's route");
    }
    message.stage = found->second;
    return {};
  }

  /// The number alone comes back: nobody gets more bytes than he sent.
  void answer_probe(const Incoming& probe) {
    if (probe.parts[0].size() != kProbeHeaderBytes) return drop("it is a probe without a number");
    const auto number = probe.parts[0];
    offer(router, {probe.sender,
                   wire::encode_kind(wire::MessageKind::kProbe),
                   {reinterpret_cast<const char*>(number.data()), number.size()}});
  }

  void count_received(const Incoming& message) {
    if (!message.stage || message.kind == wire::MessageKind::kPing) return;
    const auto link = links.find(*message.stage);
    if (link == links.end()) return;
    ++link->second.figures.frames_received;
    for (std::size_t i = 1; i < parts.size(); ++i) {
      link->second.figures.bytes_received += parts[i].size();
    }
  }

  void drop(std::string_view why) {
    if (dropped++ % 1000 == 0) {
      log(LogLevel::kWarning, "dropped a message ({} so far): {}", dropped, why);
    }
  }
};

Links::Links() = default;
Links::~Links() = default;

Result<std::unique_ptr<Links>> Links::bind(const LinkConfig& config, const keys::Gate& gate) {
  std::unique_ptr<Links> self(new Links());
  try {
    self->impl_ = std::make_unique<Impl>(config, gate);
    self->impl_->listen();
  } catch (const zmq::error_t& error) {
    return tl::unexpected<Error>(to_error(error, fmt::format("listen on {}", config.address)));
  }
  return self;
}

const std::string& Links::address() const {
  return impl_->address;
}

std::uint64_t Links::dropped() const {
  return impl_->dropped;
}

void Links::wait(std::span<pollfd> fds, std::chrono::milliseconds timeout) {
  std::vector<pollfd>& polled = impl_->polled;
  polled.assign(fds.begin(), fds.end());
  bool ready = false;
  try {
    // A socket's descriptor says once that there is something new. So whoever sleeps on it must
    // have looked before.
    ready = impl_->watch(impl_->router);
    if (impl_->zap) ready = impl_->watch(impl_->zap->socket()) || ready;
  } catch (const zmq::error_t&) {
    return;  // interrupted: the caller looks at everything again
  }
  const int most_ms = ready ? 0 : static_cast<int>(timeout.count());
  if (::poll(polled.data(), static_cast<nfds_t>(polled.size()), most_ms) < 0) return;
  impl_->answer_door();
  for (std::size_t i = 0; i < fds.size(); ++i) {
    fds[i].revents = static_cast<short>(polled[i].revents != 0 ? POLLIN : 0);
  }
}

bool Links::receive(const std::function<void(const Incoming&)>& handler) {
  if (!impl_->receive_parts()) return false;
  const auto& parts = impl_->parts;
  if (parts.size() < 3 || parts.size() > kMaxParts) {
    impl_->drop(fmt::format("it has {} parts", parts.size() - 1));
    return true;
  }
  const auto kind = wire::decode_kind(bytes_of(parts[1]));
  if (!kind) {
    impl_->drop(kind.error().message);
    return true;
  }
  std::vector<std::span<const std::byte>> bodies;
  for (std::size_t i = 2; i < parts.size(); ++i) bodies.push_back(bytes_of(parts[i]));
  Incoming message{parts[0].to_string_view(), *kind, false, std::nullopt, bodies};
  if (const auto ok = impl_->judge(message); !ok) {
    impl_->drop(ok.error().message);
    return true;
  }
  if (message.kind == wire::MessageKind::kProbe) {
    impl_->answer_probe(message);
  } else {
    impl_->count_received(message);
    handler(message);
  }
  return true;
}

void Links::reply(std::string_view sender, const std::string& json) {
  impl_->offer(impl_->router, {sender, wire::encode_kind(wire::MessageKind::kControl), json});
}

Result<void> Links::connect(std::span<const wire::StageSpec> route, std::uint32_t own) {
  disconnect();
  const std::lock_guard lock(impl_->sending);
  impl_->connected_us = now_us();
  for (std::uint32_t stage = 0; stage < route.size(); ++stage) {
    if (stage == own) continue;
    const std::string& address = route[stage].address;
    std::optional<keys::PublicKey> key;
    if (impl_->secure()) {
      DS4_ASSIGN(key, keys::parse_public_key(route[stage].key));
      if (!impl_->gate.is_peer(key->bytes)) continue;  // revoked
      impl_->stage_of.emplace(key->bytes, stage);
    }
    try {
      impl_->links.emplace(stage, Link{impl_->dial(address, key, kWorkQueue, false),
                                       impl_->dial(address, key, kPingQueue, true),
                                       {.node = route[stage].node}});
    } catch (const zmq::error_t& error) {
      return tl::unexpected<Error>(
          to_error(error, fmt::format("connect to node {} ({})", route[stage].node, address)));
    }
  }
  return {};
}

void Links::disconnect() {
  impl_->stage_of.clear();
  const std::lock_guard lock(impl_->sending);
  impl_->links.clear();
}

Result<void> Links::send(std::uint32_t stage, wire::WorkFrame frame) {
  frame.activations = impl_->config.activations;
  return impl_->send(stage, wire::MessageKind::kWork, frame, [&] {
    return std::optional(frame.activations == wire::Activations::kBf16
                             ? adopt(wire::to_bf16(frame.streams))
                             : adopt(std::move(frame.streams)));
  });
}

Result<void> Links::send(std::uint32_t stage, const wire::TokenFrame& frame) {
  return impl_->send(stage, wire::MessageKind::kToken, frame, no_streams);
}

Result<void> Links::send(std::uint32_t stage, const wire::CloseFrame& frame) {
  return impl_->send(stage, wire::MessageKind::kClose, frame, no_streams);
}

Result<void> Links::send(std::uint32_t stage, const wire::ForkFrame& frame) {
  return impl_->send(stage, wire::MessageKind::kFork, frame, no_streams);
}

Result<void> Links::send(std::uint32_t stage, const wire::ErrorFrame& frame) {
  return impl_->send(stage, wire::MessageKind::kError, frame, no_streams);
}

void Links::ping(const wire::PingFrame& frame) {
  wire::PingFrame timed = frame;
  for (auto& [stage, link] : impl_->links) {
    timed.sent_us = now_us();
    timed.echo_us = link.heard_sent_us;
    timed.held_us = timed.sent_us - link.heard_at_us;
    impl_->offer(link.pings, {wire::encode_kind(wire::MessageKind::kPing), wire::encode(timed)});
  }
}

void Links::note_ping(const wire::PingFrame& frame) {
  const auto found = impl_->links.find(frame.stage);
  if (found == impl_->links.end()) return;
  Link& link = found->second;
  link.heard_at_us = now_us();
  link.heard_sent_us = frame.sent_us;
  // Not of a ping before these links: another process, or another start of this machine, sent it.
  if (frame.echo_us < impl_->connected_us || frame.echo_us > link.heard_at_us) return;
  const std::uint64_t away_us = link.heard_at_us - frame.echo_us;
  if (frame.held_us > away_us) return;  // no honest answer
  link.figures.round_trip_us = std::max<std::uint64_t>(1, away_us - frame.held_us);
}

std::vector<wire::LinkFigures> Links::figures() const {
  const std::lock_guard lock(impl_->sending);
  std::vector<wire::LinkFigures> all;
  for (const auto& [stage, link] : impl_->links) all.push_back(link.figures);
  return all;
}

}  // namespace ds4::agent
