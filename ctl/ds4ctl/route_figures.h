#pragma once
// What the nodes of a route have done between two looks at them; pure.
//
// Agents count and never average. So rates are made here, of two reports of the same node, and only
// where both are of the same epoch and process: a total that has become smaller began anew.
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ctl/ds4ctl/status_table.h"

namespace ds4::ctl {

/// Shares are of the time between the looks, 0 to 1.
struct HopRates {
  double seconds = 0;        // between the looks, by the node's own clock
  double compute_share = 0;  // inside passes through the layers
  double wait_share = 0;     // without work, while sessions were open
  double send_share = 0;     // some finished frame had not been handed to the network yet
  double queue_ms = 0;       // from the arrival of a piece of work to its pass, on average
  double send_ms = 0;        // from the end of a pass to the sending of its frame, on average
  double decode_rows_s = 0;
  double prefill_rows_s = 0;
  double tokens_s = 0;  // drawn: where the output head is
  double sent_bytes_s = 0;
  double received_bytes_s = 0;
  double sent_frames_s = 0;
};

/// One stage of the route, and the way from it to the next (from the last one: to the first).
struct Hop {
  wire::StageSpec stage;
  std::string next;                       // node; empty if it is the only one
  const wire::NodeStatus* now = nullptr;  // null: it does not answer
  std::string trouble;                    // then why
  std::optional<HopRates> rates;          // none: there was nothing to compare with
  std::optional<double> round_trip_ms;    // to `next`
};

struct RouteFigures {
  std::uint64_t epoch = 0;  // 0: there is no route
  std::vector<Hop> hops;
  // Of the whole route; none if the stage that would know has no rates.
  std::optional<double> tokens_s;          // drawn by the last stage
  std::optional<double> prefill_tokens_s;  // through the first stage
};

/// The committed route of the highest epoch that anybody knows. `before` and `now` are looks at the
/// same nodes; `now` outlives what is returned.
RouteFigures route_figures(std::span<const NodeView> before, std::span<const NodeView> now);

/// None if the two are not of one and the same count.
std::optional<HopRates> rates_between(const wire::NodeStatus& before, const wire::NodeStatus& now);

/// The nodes of the route that are not among those of `views`, by the addresses and keys that the
/// route has them under.
std::vector<Node> unlisted_nodes(std::span<const NodeView> views);

}  // namespace ds4::ctl
