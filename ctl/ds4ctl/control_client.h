#pragma once
// Talking to agents: requests out, replies in, to and from any number of nodes at once.
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "agent/keys/key.h"
#include "agent/wire/control.h"
#include "ctl/ds4ctl/cluster.h"
#include "engine/base/result.h"

namespace ds4::ctl {

inline constexpr std::chrono::milliseconds kAnswerTimeout{3'000};

struct Incoming {
  std::size_t node = 0;  // index into the nodes it was connected to
  Result<wire::Reply> reply;
};

/// Thread rule: one thread.
class ControlTransport {
 public:
  virtual ~ControlTransport() = default;
  /// Never blocks; a request to a node that is down is simply never answered.
  virtual void send(std::size_t node, const wire::Request& request) = 0;
  /// What has come in, waiting up to `timeout` for the first; returns early (and empty) on a
  /// signal.
  virtual std::vector<Incoming> receive(std::chrono::milliseconds timeout) = 0;
  /// True if the node at that address was reached, but the two sides did not accept each other's
  /// keys.
  virtual bool keys_refused(std::size_t node) const = 0;
};

/// One ZeroMQ DEALER per node. Does not wait for anybody to answer. `identity` is this operator's
/// key; none: plain text, as insecure agents have it. Errors: kResourceExhausted and the like from
/// ZeroMQ, naming the node.
Result<std::unique_ptr<ControlTransport>> connect_nodes(
    std::span<const Node> nodes, const std::optional<keys::KeyPair>& identity);

using RequestBody = decltype(wire::Request::body);

/// Sends bodies[i] to node i, or nothing, and collects the replies; a refusal is the node's error.
/// Errors per node: kTimeout with a sentence that says how to find out more, kCancelled after
/// Ctrl-C, what the node replied. What was not asked is kNotFound.
std::vector<Result<wire::Reply>> ask_each(ControlTransport& transport, std::span<const Node> nodes,
                                          std::span<const std::optional<RequestBody>> bodies,
                                          std::chrono::milliseconds timeout);

/// Sends one request to every node and collects the replies, as ask_each().
std::vector<Result<wire::Reply>> ask_all(ControlTransport& transport, std::span<const Node> nodes,
                                         const RequestBody& body,
                                         std::chrono::milliseconds timeout = kAnswerTimeout);

/// ask_all(StatusRequest), unwrapped.
std::vector<Result<wire::NodeStatus>> query_statuses(
    ControlTransport& transport, std::span<const Node> nodes,
    std::chrono::milliseconds timeout = kAnswerTimeout, const wire::StatusRequest& asked = {});

}  // namespace ds4::ctl
