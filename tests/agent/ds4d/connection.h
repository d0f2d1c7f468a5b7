#pragma once
// One connection to an agent, as somebody with some key, or with none.
#include <chrono>
#include <optional>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "agent/keys/key.h"
#include "agent/wire/control.h"
#include "agent/wire/message_kind.h"
#include "tests/agent/agent_process.h"
#include "tests/agent/prove.h"

namespace ds4::test {

class Connection {
 public:
  Connection(const AgentProcess& agent, const std::optional<keys::KeyPair>& key) {
    socket_.set(zmq::sockopt::linger, 0);
    if (key) prove(socket_, *key, agent.node_key());
    socket_.connect(agent.address());
  }
  void say(wire::MessageKind kind, const std::vector<std::string>& parts) {
    socket_.send(zmq::buffer(wire::encode_kind(kind)), zmq::send_flags::sndmore);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const bool more = i + 1 < parts.size();
      socket_.send(zmq::buffer(parts[i]), more ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }
  void say(wire::MessageKind kind, const std::string& body) { say(kind, std::vector{body}); }

  /// The kind of the message that comes within the time, and its body; nothing if none comes.
  std::optional<std::pair<wire::MessageKind, std::string>> hear_any(
      std::chrono::milliseconds time) {
    socket_.set(zmq::sockopt::rcvtimeo, static_cast<int>(time.count()));
    zmq::message_t kind;
    zmq::message_t body;
    if (!socket_.recv(kind) || !socket_.recv(body)) return std::nullopt;
    return std::pair{static_cast<wire::MessageKind>(*static_cast<char*>(kind.data())),
                     body.to_string()};
  }
  /// The error of the reply that comes within the time; nothing if none comes.
  std::optional<std::optional<Error>> hear(std::chrono::milliseconds time) {
    const auto heard = hear_any(time);
    if (!heard) return std::nullopt;
    const auto reply = wire::decode_reply(heard->second);
    return reply ? reply->error : Error{};
  }

 private:
  zmq::context_t context_{1};
  zmq::socket_t socket_{context_, zmq::socket_type::dealer};
};

}  // namespace ds4::test
