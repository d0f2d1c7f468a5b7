#pragma once
// A ROUTER socket that plays an agent: answers every control request with what the test decides.
#include <functional>
#include <string>
#include <thread>
#include <vector>
#include <zmq.hpp>

#include "agent/wire/control.h"
#include "agent/wire/message_kind.h"

namespace ds4::ctl {

using Parts = std::vector<std::string>;
using Messages = std::vector<Parts>;

/// Binds to a free port and answers every request with what `behave` makes of it.
class RouterAgent {
 public:
  using Behaviour = std::function<Messages(const wire::Request&)>;

  explicit RouterAgent(Behaviour behave) : socket_(context_, zmq::socket_type::router) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.set(zmq::sockopt::rcvtimeo, 50);
    socket_.bind("tcp://127.0.0.1:*");
    address = socket_.get(zmq::sockopt::last_endpoint);
    thread_ = std::jthread([this, behave](const std::stop_token& stop) {
      while (!stop.stop_requested()) serve(behave);
    });
  }

  std::string address;

 private:
  void serve(const Behaviour& behave) {
    zmq::message_t identity, kind, json;
    if (!socket_.recv(identity)) return;
    if (!socket_.recv(kind) || !kind.more() || !socket_.recv(json)) return;
    const auto request = wire::decode_request(json.to_string_view());
    if (!request) return;
    for (const Parts& parts : behave(*request)) {
      socket_.send(zmq::message_t(identity.to_string_view()), zmq::send_flags::sndmore);
      for (std::size_t i = 0; i < parts.size(); ++i) {
        socket_.send(zmq::buffer(parts[i]),
                     i + 1 < parts.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
      }
    }
  }

  zmq::context_t context_;
  zmq::socket_t socket_;
  std::jthread thread_;
};

inline Parts message_of(const wire::Reply& reply) {
  return {wire::encode_kind(wire::MessageKind::kControl), wire::encode(reply)};
}

}  // namespace ds4::ctl
