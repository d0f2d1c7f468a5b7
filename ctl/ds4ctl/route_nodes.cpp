#include "ctl/ds4ctl/route_nodes.h"

#include "ctl/ds4ctl/route_figures.h"

namespace ds4::ctl {

std::vector<NodeView> look_at(ControlTransport& transport, std::span<const Node> nodes,
                              std::chrono::milliseconds timeout, const wire::StatusRequest& asked) {
  std::vector<NodeView> views;
  auto statuses = query_statuses(transport, nodes, timeout, asked);
  for (std::size_t i = 0; i < statuses.size(); ++i) {
    views.push_back({nodes[i], std::move(statuses[i])});
  }
  return views;
}

Result<RouteNodes> connect_with_route(const Access& access, std::chrono::milliseconds timeout) {
  RouteNodes reached;
  reached.nodes = access.cluster.nodes;
  DS4_ASSIGN(reached.transport, connect_nodes(reached.nodes, access.identity));
  const std::vector<NodeView> views =
      look_at(*reached.transport, reached.nodes, timeout, {.audit = false});
  const std::vector<Node> more = unlisted_nodes(views);
  if (more.empty()) return reached;
  reached.nodes.insert(reached.nodes.end(), more.begin(), more.end());
  DS4_ASSIGN(reached.transport, connect_nodes(reached.nodes, access.identity));
  return reached;
}

}  // namespace ds4::ctl
