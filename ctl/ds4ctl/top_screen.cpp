#include "ctl/ds4ctl/top_screen.h"

#include <fmt/format.h>

#include <algorithm>

#include "ctl/common/text_table.h"
#include "ctl/ds4ctl/route_table.h"
#include "engine/base/bytes_text.h"

namespace ds4::ctl {
namespace {

using wire::NodeState;

constexpr std::size_t kBarCells = 10;

std::string bar(double share) {
  const auto full =
      static_cast<std::size_t>(std::clamp(share, 0.0, 1.0) * static_cast<double>(kBarCells) + 0.5);
  return fmt::format("[{}{}]", std::string(full, '#'), std::string(kBarCells - full, '-'));
}

std::string plural(std::uint64_t count, std::string_view what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

struct Sums {
  std::uint64_t ready = 0;
  std::uint64_t sessions = 0;  // of the node that holds the most: each stage has every session
  std::uint64_t requests = 0;
  std::uint64_t programs = 0;
};

Sums sums_of(std::span<const NodeView> views) {
  Sums sums;
  for (const NodeView& view : views) {
    if (!view.status) continue;
    sums.ready += view.status->state == NodeState::kReady;
    sums.sessions = std::max(sums.sessions, view.status->sessions);
    sums.requests += view.status->requests;
    sums.programs += view.status->clients.connected;
  }
  return sums;
}

/// The clock at the right edge, where there is room.
std::string headline(const TopSnapshot& snapshot, const RouteFigures& route, const Sums& sums,
                     std::size_t width) {
  std::string text =
      fmt::format("ds4d: {} of {} ready", sums.ready, plural(snapshot.now.size(), "node"));
  if (route.epoch != 0) text += fmt::format(", epoch {}", route.epoch);
  const std::size_t room = width > characters(text) ? width - characters(text) : 0;
  if (!snapshot.clock.empty() && room > snapshot.clock.size() + 1) {
    text += fmt::format("{:>{}}", snapshot.clock, std::min<std::size_t>(room, 40));
  }
  return text;
}

std::string rates_line(const RouteFigures& route, const Sums& sums) {
  const auto text_of = [](const std::optional<double>& rate) {
    return rate ? rate_text(*rate) : std::string("-");
  };
  return fmt::format("{} tokens/s, {} prompt tokens/s; {}, {}, {}", text_of(route.tokens_s),
                     text_of(route.prefill_tokens_s), plural(sums.requests, "request"),
                     plural(sums.sessions, "session"), plural(sums.programs, "program"));
}

double load_share(const wire::NodeStatus& status) {
  if (status.load.bytes_total == 0) return 0;
  return static_cast<double>(status.load.bytes_done) / static_cast<double>(status.load.bytes_total);
}

bool loads(const wire::NodeStatus& status) {
  return status.state == NodeState::kLoading ||
         (status.preparation && status.preparation->phase == wire::PreparePhase::kLoading);
}

std::string detail_of(const wire::NodeStatus& status) {
  std::string text;
  if (loads(status)) {
    text = fmt::format("{} {}", bar(load_share(status)), share_text(load_share(status)));
    if (status.load.seconds_left > 0) text += fmt::format(", {} s left", status.load.seconds_left);
    if (status.preparation) text += fmt::format(" of {}", status.preparation->layers);
    return text;
  }
  if (status.draining) text = "draining";
  if (!status.detail.empty()) text += (text.empty() ? "" : "; ") + status.detail;
  return text;
}

Tone tone_of(const NodeView& view) {
  if (!view.status) return Tone::kBad;
  switch (view.status->state) {
    case NodeState::kReady:
      return view.status->draining ? Tone::kUnusual : Tone::kGood;
    case NodeState::kFailed:
      return Tone::kBad;
    case NodeState::kIdle:
      return Tone::kPlain;
    default:
      return Tone::kUnusual;
  }
}

std::vector<std::string> node_row(const NodeView& view) {
  if (!view.status) {
    return {
        view.node.name, "unreachable", "-", "-", "-", "-", "-", "-", view.status.error().message};
  }
  const wire::NodeStatus& status = *view.status;
  const wire::ResidentReport& resident = status.resident;
  return {status.name.empty() ? view.node.name : status.name,
          std::string(to_string(status.state)),
          status.layers.empty() ? "-" : status.layers,
          bytes_text(status.cover.cover_bytes),
          bytes_text(std::max(resident.incore_bytes, resident.device_bytes)),
          bytes_text(status.kv_bytes),
          fmt::format("{}", status.sessions),
          fmt::format("{}", status.requests),
          detail_of(status)};
}

void add_table(const TextTable& table, std::size_t width, std::span<const Tone> tones,
               std::vector<ScreenLine>& lines) {
  const std::vector<std::string> texts = table.lines(width);
  lines.push_back({texts[0], Tone::kHeading});
  for (std::size_t i = 1; i < texts.size(); ++i) lines.push_back({texts[i], tones[i - 1]});
}

}  // namespace

std::vector<ScreenLine> render_top(const TopSnapshot& snapshot, std::size_t width,
                                   std::size_t height) {
  const RouteFigures route = route_figures(snapshot.before, snapshot.now);
  const Sums sums = sums_of(snapshot.now);
  std::vector<ScreenLine> lines;
  lines.push_back({headline(snapshot, route, sums, width), Tone::kHeading});
  lines.push_back({rates_line(route, sums)});
  lines.push_back({});

  TextTable nodes({{"NODE"},
                   {"STATE"},
                   {"LAYERS", false, 2},
                   {"COVER", true, 5},
                   {"RESIDENT", true, 4},
                   {"KV", true, 3},
                   {"SESSIONS", true, 6},
                   {"REQUESTS", true, 7},
                   {"", false, 8}});
  std::vector<Tone> tones;
  for (const NodeView& view : snapshot.now) {
    nodes.add(node_row(view));
    tones.push_back(tone_of(view));
  }
  add_table(nodes, width, tones, lines);

  if (!route.hops.empty()) {
    lines.push_back({});
    std::vector<Tone> hop_tones;
    for (const Hop& hop : route.hops) {
      hop_tones.push_back(hop.now == nullptr ? Tone::kBad : Tone::kPlain);
    }
    add_table(hop_table(route), width, hop_tones, lines);
  }
  for (ScreenLine& line : lines) line.text = clipped(line.text, width);
  if (lines.size() > height) lines.resize(height);
  return lines;
}

std::string painted(const ScreenLine& line, bool colour) {
  if (!colour || line.text.empty()) return line.text;
  switch (line.tone) {
    case Tone::kPlain:
      return line.text;
    case Tone::kHeading:
      return "\x1b[1m" + line.text + "\x1b[0m";
    case Tone::kGood:
      return "\x1b[32m" + line.text + "\x1b[0m";
    case Tone::kUnusual:
      return "\x1b[33m" + line.text + "\x1b[0m";
    case Tone::kBad:
      return "\x1b[31m" + line.text + "\x1b[0m";
  }
  return line.text;
}

}  // namespace ds4::ctl
