#pragma once
// How a request can end, and what the route is doing: numbers that never change their meaning. The
// C header (ds4.h) repeats them; a test holds the two together.
#include <cstdint>
#include <string_view>

namespace ds4::ipc {

enum class Status : std::uint16_t {
  kOkStop = 0,      // a stop token was generated (FinalBody names it; it is not delivered)
  kOkLength = 1,    // max_tokens, or the end of the context
  kOkClosed = 2,    // a close_session has been carried out
  kOkForked = 3,    // a fork_session has been carried out; FinalBody names the copy
  kCancelled = 16,  // by the client
  // Everything from here on is an error and comes with a sentence.
  kInvalid = 32,         // a field breaks the protocol or its own bounds
  kOutOfRange = 33,      // a token id outside the vocabulary, a prompt beyond the context
  kBusy = 34,            // a limit on requests, sessions or memory; retryable
  kRouteNotReady = 35,   // no assignment, loading, or degraded; retryable
  kPeerLost = 36,        // another node of the route went away; retryable
  kAgentShutdown = 37,   // the agent is stopping; retryable
  kInternal = 38,        // a bug or a failing machine; the agent's log says more
  kUnknownSession = 39,  // session_id names none of this client's sessions
  kRefused = 40,         // this user or program may not connect
  kVersion = 41,         // the two ends share no major version
};

/// Stable lower-case name ("ok_stop", "peer_lost"); "unknown" for numbers without one.
std::string_view to_string(Status status);
/// One fixed sentence for each status, for use where none came along.
std::string_view describe(Status status);
bool is_error(Status status);
/// True if the same request may succeed later without being changed.
bool is_retryable(Status status);

enum class RouteState : std::uint32_t {
  kIdle = 0,     // no layers assigned
  kLoading = 1,  // weights on their way, or waiting for the canary token
  kReady = 2,
  kDegraded = 3,  // a node does not answer
  kStopping = 4,
};

std::string_view to_string(RouteState state);

}  // namespace ds4::ipc
