#pragma once
// Two looks at a route of two nodes, five seconds apart; shared by the tests of what shows it.
#include <vector>

#include "ctl/ds4ctl/status_table.h"
#include "tests/ctl/node_fixture.h"

namespace ds4::ctl::testing_nodes {

inline std::vector<NodeView> route_at_first() {
  std::vector<NodeView> views;
  const std::vector<Node> nodes = two_nodes().nodes;
  std::vector<wire::StageSpec> route;
  for (const Node& node : nodes) {
    route.push_back({node.name, node.address, node.name == "alpha" ? "0:2" : "3:output"});
  }
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    wire::NodeStatus status = idle(nodes[i].name);
    status.state = wire::NodeState::kReady;
    status.epoch = 3;
    status.layers = route[i].layers;
    status.route = route;
    status.cover.cover_bytes = (i + 5) << 20;
    status.resident.incore_bytes = status.cover.cover_bytes;
    status.kv_bytes = 3 << 19;
    status.sessions = 2;
    status.stage.clock_us = 1'000'000;
    status.links = {{nodes[1 - i].name, 10, 1000, 10, 1000, 450 + i * 100}};
    views.push_back({nodes[i], status});
  }
  views[0].status->requests = 1;
  views[0].status->clients.connected = 1;
  return views;
}

inline std::vector<NodeView> route_five_seconds_later() {
  std::vector<NodeView> views = route_at_first();
  for (NodeView& view : views) {
    wire::StageFigures& stage = view.status->stage;
    stage.clock_us += 5'000'000;
    stage.batches += 500;
    stage.decode_rows += 500;
    stage.prefill_rows += 1000;
    stage.compute_us += 2'500'000;
    stage.wait_us += 1'000'000;
    stage.queue_us += 60'000;
    stage.queue_items += 500;
    stage.waiting_rows = 7;
    stage.send_us += 50'000;
    stage.send_frames += 500;
    view.status->links[0].bytes_sent += 5 << 20;
    view.status->links[0].frames_sent += 500;
  }
  views[1].status->stage.tokens += 480;
  return views;
}

}  // namespace ds4::ctl::testing_nodes
