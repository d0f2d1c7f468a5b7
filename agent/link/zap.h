#pragma once
// The door: who may connect at all (ZeroMQ's authentication protocol, RFC 27).
//
// The library asks, for every connection whose owner has proven a key, whether it may come in, and
// attaches our answer's user id to every message of that connection. The user id is the key itself:
// so each message says by whom it verifiably is, and a revocation needs no disconnecting, because
// the receiver looks the key up again for every message.
//
// Thread rule: the main loop's thread; the library's threads wait for the answers.
#include <functional>
#include <optional>
#include <zmq.hpp>

#include "agent/keys/key.h"

namespace ds4::agent {

/// The zap domain of all sockets that listen.
inline constexpr const char* kZapDomain = "ds4";

class ZapHandler {
 public:
  /// Before any socket of `context` listens. Throws zmq::error_t.
  explicit ZapHandler(zmq::context_t& context);

  zmq::socket_ref socket() { return socket_; }
  /// Answers everything that was asked. `refused` hears of each key that is not admitted.
  void answer(const std::function<bool(const keys::KeyBytes&)>& admits,
              const std::function<void(const keys::KeyBytes&)>& refused);

 private:
  zmq::socket_t socket_;
};

/// The key that `message`'s connection has proven; nothing if it has none.
std::optional<keys::KeyBytes> proven_key(const zmq::message_t& message);

}  // namespace ds4::agent
