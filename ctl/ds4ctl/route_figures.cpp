#include "ctl/ds4ctl/route_figures.h"

#include <fmt/format.h>

#include <algorithm>

#include "agent/keys/key.h"

namespace ds4::ctl {
namespace {

const wire::NodeStatus* with_route(std::span<const NodeView> views) {
  const wire::NodeStatus* best = nullptr;
  for (const NodeView& view : views) {
    if (!view.status || view.status->route.empty()) continue;
    if (best == nullptr || view.status->epoch > best->epoch) best = &*view.status;
  }
  return best;
}

bool is_of(const NodeView& view, const std::string& name) {
  return view.status ? view.status->name == name : view.node.name == name;
}

const NodeView* find(std::span<const NodeView> views, const std::string& name) {
  const auto found = std::find_if(views.begin(), views.end(),
                                  [&](const NodeView& view) { return is_of(view, name); });
  return found == views.end() ? nullptr : &*found;
}

struct LinkTotals {
  std::uint64_t sent_bytes = 0;
  std::uint64_t received_bytes = 0;
  std::uint64_t sent_frames = 0;
};

LinkTotals totals_of(const wire::NodeStatus& status) {
  LinkTotals totals;
  for (const wire::LinkFigures& link : status.links) {
    totals.sent_bytes += link.bytes_sent;
    totals.received_bytes += link.bytes_received;
    totals.sent_frames += link.frames_sent;
  }
  return totals;
}

double mean_ms(std::uint64_t us, std::uint64_t count) {
  return count == 0 ? 0 : static_cast<double>(us) / static_cast<double>(count) / 1e3;
}

Hop hop_of(const wire::StageSpec& stage, const std::string& next, std::span<const NodeView> before,
           std::span<const NodeView> now) {
  Hop hop;
  hop.stage = stage;
  hop.next = next;
  const NodeView* view = find(now, stage.node);
  if (view == nullptr) {
    hop.trouble = "not asked";
    return hop;
  }
  if (!view->status) {
    hop.trouble = view->status.error().message;
    return hop;
  }
  hop.now = &*view->status;
  const NodeView* earlier = find(before, stage.node);
  if (earlier != nullptr && earlier->status) {
    hop.rates = rates_between(*earlier->status, *hop.now);
  }
  for (const wire::LinkFigures& link : hop.now->links) {
    if (link.node == next && link.round_trip_us > 0) {
      hop.round_trip_ms = static_cast<double>(link.round_trip_us) / 1e3;
    }
  }
  return hop;
}

}  // namespace

std::optional<HopRates> rates_between(const wire::NodeStatus& before, const wire::NodeStatus& now) {
  const wire::StageFigures& a = before.stage;
  const wire::StageFigures& b = now.stage;
  const LinkTotals links_a = totals_of(before);
  const LinkTotals links_b = totals_of(now);
  const bool one_count =
      before.epoch == now.epoch && a.clock_us < b.clock_us && a.batches <= b.batches &&
      a.compute_us <= b.compute_us && a.wait_us <= b.wait_us && a.send_us <= b.send_us &&
      a.queue_us <= b.queue_us && a.queue_items <= b.queue_items &&
      a.send_frames <= b.send_frames && a.tokens <= b.tokens && a.decode_rows <= b.decode_rows &&
      a.prefill_rows <= b.prefill_rows && links_a.sent_bytes <= links_b.sent_bytes &&
      links_a.received_bytes <= links_b.received_bytes &&
      links_a.sent_frames <= links_b.sent_frames;
  if (!one_count) return std::nullopt;
  HopRates rates;
  rates.seconds = static_cast<double>(b.clock_us - a.clock_us) / 1e6;
  const auto per_second = [&](std::uint64_t from, std::uint64_t to) {
    return static_cast<double>(to - from) / rates.seconds;
  };
  // A pass is counted when it ends, with what it took before the first look.
  const auto share = [&](std::uint64_t from_us, std::uint64_t to_us) {
    return std::min(1.0, per_second(from_us, to_us) / 1e6);
  };
  rates.compute_share = share(a.compute_us, b.compute_us);
  rates.wait_share = share(a.wait_us, b.wait_us);
  rates.send_share = share(a.send_us, b.send_us);
  rates.queue_ms = mean_ms(b.queue_us - a.queue_us, b.queue_items - a.queue_items);
  rates.send_ms = mean_ms(b.send_us - a.send_us, b.send_frames - a.send_frames);
  rates.decode_rows_s = per_second(a.decode_rows, b.decode_rows);
  rates.prefill_rows_s = per_second(a.prefill_rows, b.prefill_rows);
  rates.tokens_s = per_second(a.tokens, b.tokens);
  rates.sent_bytes_s = per_second(links_a.sent_bytes, links_b.sent_bytes);
  rates.received_bytes_s = per_second(links_a.received_bytes, links_b.received_bytes);
  rates.sent_frames_s = per_second(links_a.sent_frames, links_b.sent_frames);
  return rates;
}

RouteFigures route_figures(std::span<const NodeView> before, std::span<const NodeView> now) {
  RouteFigures figures;
  const wire::NodeStatus* knows = with_route(now);
  if (knows == nullptr) return figures;
  figures.epoch = knows->epoch;
  const auto& route = knows->route;
  for (std::size_t i = 0; i < route.size(); ++i) {
    const std::string next = route.size() > 1 ? route[(i + 1) % route.size()].node : "";
    figures.hops.push_back(hop_of(route[i], next, before, now));
  }
  if (const auto& rates = figures.hops.front().rates) {
    figures.prefill_tokens_s = rates->prefill_rows_s;
  }
  if (const auto& rates = figures.hops.back().rates) figures.tokens_s = rates->tokens_s;
  return figures;
}

std::vector<Node> unlisted_nodes(std::span<const NodeView> views) {
  std::vector<Node> nodes;
  const wire::NodeStatus* knows = with_route(views);
  if (knows == nullptr) return nodes;
  for (const wire::StageSpec& stage : knows->route) {
    const bool listed = std::any_of(views.begin(), views.end(), [&](const NodeView& view) {
      return is_of(view, stage.node) || view.node.address == stage.address;
    });
    if (listed) continue;
    Node node{stage.node, stage.address};
    if (!stage.key.empty()) {
      const auto key = keys::parse_public_key(stage.key);
      if (!key) continue;
      node.key = *key;
    }
    nodes.push_back(std::move(node));
  }
  return nodes;
}

}  // namespace ds4::ctl
