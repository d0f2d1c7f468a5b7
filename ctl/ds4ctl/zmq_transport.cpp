// ControlTransport over ZeroMQ; the only file of ctl that knows it.
#include <fmt/format.h>

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

class ZmqTransport : public ControlTransport {
 public:
  Result<void> connect(const Node& node) {
    try {
      zmq::socket_t socket(context_, zmq::socket_type::dealer);
      socket.set(zmq::sockopt::linger, 500);  // an abort just sent shall still leave
      socket.set(zmq::sockopt::ipv6, true);
      socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(wire::kMaxControlBytes));
      socket.set(zmq::sockopt::reconnect_ivl, 200);
      socket.set(zmq::sockopt::reconnect_ivl_max, 2000);
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

  zmq::context_t context_{1};
  std::vector<zmq::socket_t> sockets_;
};

}  // namespace

Result<std::unique_ptr<ControlTransport>> connect_nodes(std::span<const Node> nodes) {
  auto transport = std::make_unique<ZmqTransport>();
  for (const Node& node : nodes) DS4_TRY(transport->connect(node));
  return transport;
}

}  // namespace ds4::ctl
