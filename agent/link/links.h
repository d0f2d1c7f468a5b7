#pragma once
// Links: ZeroMQ between agents, and between ds4ctl and an agent.
//
// One ROUTER socket receives everything, from stages and from ds4ctl alike; replies to ds4ctl go
// back through it. Towards each other stage there are two DEALER sockets of our own: one for work,
// tokens, closings, forks and errors, in order, and one for pings alone. A ping must not wait
// behind a hundred megabytes of activations, or a busy link would look like a dead node; and a ping
// that cannot be sent now is worth nothing later, so its socket queues nothing while it is not
// connected. Work does queue, up to a bound; beyond it the peer is called unreachable, because the
// main loop never blocks.
//
// Everything is encrypted and authenticated with CURVE, unless the configuration says insecure =
// true: whoever connects has proven his key, and is admitted only if the Gate knows it (zap.h).
// Each message is judged by its sender's key once more when it is received: control comes from
// operators, frames from the stage that the route has the key of, probes (link_probe.h, answered
// here) from these and from whoever is expected to measure, all else is dropped. So a key
// that is revoked is cut off with the very next message.
//
// All exceptions of the library stop here.
//
// Thread rule: the main loop's thread; send() also from others, which is how the engine thread's
// frames leave without waking the main loop first.
#include <poll.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "agent/keys/key.h"
#include "agent/keys/trust_list.h"
#include "agent/wire/control.h"
#include "agent/wire/frame.h"
#include "agent/wire/message_kind.h"
#include "engine/base/result.h"

namespace ds4::agent {

struct LinkConfig {
  std::string address;                          // to bind; "tcp://127.0.0.1:*" takes a free port
  std::uint64_t max_message_bytes = 64U << 20;  // of one part; a longer one ends the connection
  std::chrono::milliseconds timeout{2000};      // after which a silent connection is made anew
  std::optional<keys::KeyPair> key = {};        // this agent's; none: no encryption, no trust
  wire::Activations activations = wire::Activations::kFloat32;  // of the work that is sent
};

/// Valid during the call that receives it.
struct Incoming {
  std::string_view sender;  // for reply()
  wire::MessageKind kind{};
  bool may_command = false;  // proven, or nobody has to prove anything here
  /// Of a frame: the stage that its sender has proven to be; none if nobody has to.
  std::optional<std::uint32_t> stage;
  std::span<const std::span<const std::byte>> parts;  // without the kind; at least one
};

class Links {
 public:
  /// Errors: kUnavailable if the address is taken, kInvalidArgument if it is none of this
  /// machine's.
  /// `gate` outlives the links and may change at any time between two calls; it is not asked where
  /// `config.key` is none.
  static Result<std::unique_ptr<Links>> bind(const LinkConfig& config, const keys::Gate& gate);
  ~Links();

  /// What was bound, with the port's number.
  const std::string& address() const;

  /// Until a message can be received, one of `fds` is ready (their revents are set), or the time is
  /// up.
  void wait(std::span<pollfd> fds, std::chrono::milliseconds timeout);
  /// Hands one message to `handler`; false if there is none. Messages without a kind are dropped,
  /// probes answered.
  bool receive(const std::function<void(const Incoming&)>& handler);
  /// To the sender of a control message, if it is still there.
  void reply(std::string_view sender, const std::string& json);

  /// Links to all stages of `route` but `own`, in place of all former ones. What these had not sent
  /// yet is lost. Stages whose keys the gate does not admit get no link. Addresses and keys have
  /// passed check_prepare().
  Result<void> connect(std::span<const wire::StageSpec> route, std::uint32_t own);
  void disconnect();

  // From any thread. After an error the frame is lost, and nothing of it was sent: kUnavailable if
  // the stage's queue is full or there is no such link, kResourceExhausted if there is no memory
  // for it.
  Result<void> send(std::uint32_t stage, wire::WorkFrame frame);
  Result<void> send(std::uint32_t stage, const wire::TokenFrame& frame);
  Result<void> send(std::uint32_t stage, const wire::CloseFrame& frame);
  Result<void> send(std::uint32_t stage, const wire::ForkFrame& frame);
  Result<void> send(std::uint32_t stage, const wire::ErrorFrame& frame);
  /// To every linked stage; not connected ones miss it. Each gets times of its own in it, by which
  /// it measures the round trip.
  void ping(const wire::PingFrame& frame);
  /// This ping has come from one of the linked stages.
  void note_ping(const wire::PingFrame& frame);

  /// One for each link, in the order of the stages; from connect() on.
  std::vector<wire::LinkFigures> figures() const;

  /// Messages dropped so far because nothing could be made of them, or their senders may not send
  /// them.
  std::uint64_t dropped() const;

 private:
  Links();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4::agent
