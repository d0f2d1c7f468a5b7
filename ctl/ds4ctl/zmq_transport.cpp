// ControlTransport over ZeroMQ; the only file of ctl that knows it.
#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <zmq.hpp>

#include "agent/wire/message_kind.h"
#include "ctl/ds4ctl/control_client.h"

namespace ds4::ctl {
namespace {

Result<wire::Reply> decode(const std::vector<zmq::message_t>& parts) {
  const auto bytes_of = [](const zmq::message_t& part) {
    return std::span(static_cast<const std::byte*>(part.data()), part.size());
  };
  DS4_ASSIGN(const wire::MessageKind kind, wire::decode_kind(bytes_of(parts.front())));
  if (kind != wire::MessageKind::kControl || parts.size() != 2) {
    return fail(ErrorCode::kCorrupt, "the answer is not a control message");
  }
  return wire::decode_reply(parts[1].to_string_view());
}

zmq::const_buffer buffer_of(const keys::KeyBytes& key) {
  return zmq::buffer(key.data(), key.size());
}

/// What the library tells of one socket's handshakes.
class HandshakeWatch {
 public:
  HandshakeWatch(zmq::context_t& context, zmq::socket_t& socket, std::size_t number)
      : events_(context, zmq::socket_type::pair) {
    const std::string place = fmt::format("inproc://handshakes-{}", number);
    constexpr int kEvents = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                            ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    if (zmq_socket_monitor(socket.handle(), place.c_str(), kEvents) != 0) throw zmq::error_t();
    events_.set(zmq::sockopt::linger, 0);
    events_.connect(place);
  }

  /// Whether the last handshake so far failed.
  bool failed() {
    zmq::message_t event;
    while (events_.recv(event, zmq::recv_flags::dontwait)) {
      std::uint16_t number = 0;
      if (event.size() >= sizeof(number)) std::memcpy(&number, event.data(), sizeof(number));
      failed_ = number != ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
      zmq::message_t address;
      (void)events_.recv(address);
    }
    return failed_;
  }

 private:
  zmq::socket_t events_;
  bool failed_ = false;
};

class ZmqTransport : public ControlTransport {
 public:
  explicit ZmqTransport(const std::optional<keys::KeyPair>& identity) : identity_(identity) {}

  Result<void> connect(const Node& node) {
    if (identity_ && !node.key) {
      return fail(ErrorCode::kInvalidArgument, fmt::format("node {} has no key", node.name));
    }
    try {
      zmq::socket_t socket(context_, zmq::socket_type::dealer);
      socket.set(zmq::sockopt::linger, 500);  // an abort just sent shall still leave
      socket.set(zmq::sockopt::ipv6, true);
      socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(wire::kMaxControlBytes));
      socket.set(zmq::sockopt::reconnect_ivl, 200);
      socket.set(zmq::sockopt::reconnect_ivl_max, 2000);
      if (identity_) {
        socket.set(zmq::sockopt::curve_serverkey, buffer_of(node.key->bytes));
        socket.set(zmq::sockopt::curve_publickey, buffer_of(identity_->public_key.bytes));
        socket.set(zmq::sockopt::curve_secretkey, buffer_of(identity_->secret));
      }
      watches_.emplace_back(context_, socket, watches_.size());
      socket.connect(node.address);
      sockets_.push_back(std::move(socket));
    } catch (const zmq::error_t& error) {
      return fail(ErrorCode::kUnavailable, fmt::format("connect to node {} at {}: {}", node.name,
                                                       node.address, error.what()));
    }
    return {};
  }

  void send(std::size_t node, const wire::Request& request) override {
    const std::string kind = wire::encode_kind(wire::MessageKind::kControl);
    const std::string json = wire::encode(request);
    try {
      const auto first = sockets_[node].send(zmq::buffer(kind),
                                             zmq::send_flags::sndmore | zmq::send_flags::dontwait);
      if (first) sockets_[node].send(zmq::buffer(json), zmq::send_flags::dontwait);
    } catch (const zmq::error_t&) {
      // As good as a node that is down: the caller's timeout says so.
    }
  }

  std::vector<Incoming> receive(std::chrono::milliseconds timeout) override {
    std::vector<zmq::pollitem_t> items;
    for (zmq::socket_t& socket : sockets_) {
      items.push_back({static_cast<void*>(socket), 0, ZMQ_POLLIN, 0});
    }
    std::vector<Incoming> incoming;
    try {
      zmq::poll(items, timeout);
      for (std::size_t i = 0; i < items.size(); ++i) {
        while (auto parts = receive_parts(sockets_[i])) incoming.push_back({i, decode(*parts)});
      }
    } catch (const zmq::error_t&) {  // EINTR: a signal; the caller looks at its flag
    }
    return incoming;
  }

  bool keys_refused(std::size_t node) const override {
    try {
      return watches_[node].failed();
    } catch (const zmq::error_t&) {
      return false;
    }
  }

 private:
  static std::optional<std::vector<zmq::message_t>> receive_parts(zmq::socket_t& socket) {
    std::vector<zmq::message_t> parts(1);
    if (!socket.recv(parts.back(), zmq::recv_flags::dontwait)) return std::nullopt;
    while (parts.back().more()) {
      zmq::message_t part;
      if (!socket.recv(part)) break;  // the rest of a message is always there already
      parts.push_back(std::move(part));
    }
    return parts;
  }

  const std::optional<keys::KeyPair> identity_;
  zmq::context_t context_{1};
  mutable std::vector<HandshakeWatch> watches_;
  std::vector<zmq::socket_t> sockets_;
};

}  // namespace

Result<std::unique_ptr<ControlTransport>> connect_nodes(
    std::span<const Node> nodes, const std::optional<keys::KeyPair>& identity) {
  auto transport = std::make_unique<ZmqTransport>(identity);
  for (const Node& node : nodes) DS4_TRY(transport->connect(node));
  return transport;
}

}  // namespace ds4::ctl
