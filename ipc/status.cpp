#include "ipc/status.h"

namespace ds4::ipc {

std::string_view to_string(Status status) {
  switch (status) {
    case Status::kOkStop:
      return "ok_stop";
    case Status::kOkLength:
      return "ok_length";
    case Status::kOkClosed:
      return "ok_closed";
    case Status::kOkForked:
      return "ok_forked";
    case Status::kCancelled:
      return "cancelled";
    case Status::kInvalid:
      return "invalid";
    case Status::kOutOfRange:
      return "out_of_range";
    case Status::kBusy:
      return "busy";
    case Status::kRouteNotReady:
      return "route_not_ready";
    case Status::kPeerLost:
      return "peer_lost";
    case Status::kAgentShutdown:
      return "agent_shutdown";
    case Status::kInternal:
      return "internal";
    case Status::kUnknownSession:
      return "unknown_session";
    case Status::kRefused:
      return "refused";
    case Status::kVersion:
      return "version";
  }
  return "unknown";
}

std::string_view describe(Status status) {
  switch (status) {
    case Status::kOkStop:
      return "the model ended its answer";
    case Status::kOkLength:
      return "the answer reached the requested length or the context's end";
    case Status::kOkClosed:
      return "the session is closed";
    case Status::kOkForked:
      return "the session is copied";
    case Status::kCancelled:
      return "the request was cancelled";
    case Status::kInvalid:
      return "the request is malformed";
    case Status::kOutOfRange:
      return "a token id or a length is beyond what the model takes";
    case Status::kBusy:
      return "the agent has no room for this request now; try again later";
    case Status::kRouteNotReady:
      return "the model is not ready; `ds4ctl status` says why";
    case Status::kPeerLost:
      return "a node of the route went away; try again";
    case Status::kAgentShutdown:
      return "the agent is shutting down; try again when it is back";
    case Status::kInternal:
      return "the agent failed; its log says more";
    case Status::kUnknownSession:
      return "there is no such session on this connection";
    case Status::kRefused:
      return "the agent does not accept this program";
    case Status::kVersion:
      return "client library and agent speak different protocol versions";
  }
  return "unknown status";
}

bool is_error(Status status) {
  return static_cast<std::uint16_t>(status) >= 32;
}

bool is_retryable(Status status) {
  switch (status) {
    case Status::kBusy:
    case Status::kRouteNotReady:
    case Status::kPeerLost:
    case Status::kAgentShutdown:
      return true;
    default:
      return false;
  }
}

std::string_view to_string(RouteState state) {
  switch (state) {
    case RouteState::kIdle:
      return "idle";
    case RouteState::kLoading:
      return "loading";
    case RouteState::kReady:
      return "ready";
    case RouteState::kDegraded:
      return "degraded";
    case RouteState::kStopping:
      return "stopping";
  }
  return "unknown";
}

}  // namespace ds4::ipc
