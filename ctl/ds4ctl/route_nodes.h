#pragma once
#include <chrono>
#include <memory>
#include <vector>

#include "ctl/ds4ctl/access.h"
#include "ctl/ds4ctl/control_client.h"
#include "ctl/ds4ctl/status_table.h"

namespace ds4::ctl {

/// query_statuses(), each beside its node.
std::vector<NodeView> look_at(ControlTransport& transport, std::span<const Node> nodes,
                              std::chrono::milliseconds timeout, const wire::StatusRequest& asked);

struct RouteNodes {
  std::vector<Node> nodes;
  std::unique_ptr<ControlTransport> transport;  // to these
};

/// The nodes of the cluster file, and those of their route that it does not list.
Result<RouteNodes> connect_with_route(const Access& access, std::chrono::milliseconds timeout);

}  // namespace ds4::ctl
