#include "ctl/ds4ctl/status_audit.h"

#include <fmt/format.h>

#include <array>

#include "engine/base/bytes_text.h"

namespace ds4::ctl {
namespace {

using wire::NodeState;

/// On the GPU, registered with it, or in host memory: wherever this strategy computes from.
std::uint64_t resident_bytes(const wire::ResidentReport& resident) {
  return resident.device_bytes > 0 ? resident.device_bytes : resident.incore_bytes;
}

std::string trouble_of(const NodeView& view) {
  if (!view.status) return fmt::format("{}: {}", view.node.name, view.status.error().message);
  const wire::NodeStatus& status = *view.status;
  switch (status.state) {
    case NodeState::kReady:
      break;
    case NodeState::kLoading:
      return fmt::format(
          "{} is loading: {} of {}{}", status.name, bytes_text(status.load.bytes_done),
          bytes_text(status.load.bytes_total),
          status.load.seconds_left > 0 ? fmt::format(", {} s left", status.load.seconds_left) : "");
    default:
      return fmt::format("{} is {}{}{}", status.name, to_string(status.state),
                         status.detail.empty() ? "" : ": ", status.detail);
  }
  const std::uint64_t outside = status.resident.outside_cover_bytes;
  if (outside > 0) {
    return fmt::format("{} serves, but maps {} outside its layers", status.name,
                       bytes_text(outside));
  }
  const std::uint64_t there = resident_bytes(status.resident);
  if (there < status.cover.cover_bytes) {
    return fmt::format("{} serves, but {} of its {} are not in memory", status.name,
                       bytes_text(status.cover.cover_bytes - there),
                       bytes_text(status.cover.cover_bytes));
  }
  return {};
}

std::string all_well(std::span<const NodeView> views) {
  std::uint64_t held = 0, locked = 0, device = 0;
  std::string layers;
  for (std::size_t i = 0; i < views.size(); ++i) {
    const wire::NodeStatus& status = *views[i].status;
    held += resident_bytes(status.resident);
    locked += status.resident.locked_bytes;
    device += status.resident.device_bytes;
    layers += (i == 0 ? "" : i + 1 == views.size() ? " and " : ", ") + status.layers;
  }
  std::string how = fmt::format("{} of it locked", locked == 0 ? "none" : bytes_text(locked));
  if (locked >= held) how = "all of it locked";
  if (device > 0) how = fmt::format("{} of it on GPUs", bytes_text(device));
  return fmt::format("ready: {} node{} hold{} layers {}, {} in memory, {}, nothing outside {}",
                     views.size(), views.size() == 1 ? "" : "s", views.size() == 1 ? "s" : "",
                     layers, bytes_text(held), how,
                     views.size() == 1 ? "its layers" : "their layers");
}

std::string load_text(const wire::ResidentReport& resident) {
  const double seconds = static_cast<double>(resident.load_us) / 1e6;
  std::string text = fmt::format("  resident after {:.3f} s ({}): {} read", seconds,
                                 resident.strategy, bytes_text(resident.read_bytes));
  if (resident.read_bytes > 0 && seconds > 0) {
    text +=
        fmt::format(" at {:.2f} GB/s", static_cast<double>(resident.read_bytes) / 1e9 / seconds);
  }
  text += fmt::format(", {} kept, {} left by the agent before\n", bytes_text(resident.kept_bytes),
                      bytes_text(resident.adopted_bytes));
  text += fmt::format("  peak while loading {}", bytes_text(resident.load_peak_bytes));
  if (resident.group_peak_bytes > 0) {
    text +=
        fmt::format("; of its control group until now {}", bytes_text(resident.group_peak_bytes));
  }
  text += '\n';
  if (!resident.note.empty()) text += fmt::format("  note: {}\n", resident.note);
  return text;
}

std::string interval_line(const std::array<std::string, 7>& cells) {
  return fmt::format("  {:>16} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12}\n", cells[0], cells[1],
                     cells[2], cells[3], cells[4], cells[5], cells[6]);
}

std::string intervals_text(const wire::ResidentReport& resident) {
  std::string text =
      interval_line({"OFFSET", "PLANNED", "MAPPED", "IN CORE", "LOCKED", "REGISTERED", "DEVICE"});
  for (const wire::IntervalReport& one : resident.intervals) {
    text += interval_line({fmt::format("{}", one.offset), bytes_text(one.bytes),
                           bytes_text(one.mapped_bytes), bytes_text(one.incore_bytes),
                           bytes_text(one.locked_bytes), bytes_text(one.registered_bytes),
                           bytes_text(one.device_bytes)});
  }
  return text;
}

}  // namespace

std::string status_sentence(std::span<const NodeView> views) {
  if (views.empty()) return "there are no nodes\n";
  for (const NodeView& view : views) {
    if (std::string trouble = trouble_of(view); !trouble.empty()) return trouble + "\n";
  }
  return all_well(views) + "\n";
}

std::string spans_text(std::span<const NodeView> views) {
  std::string text;
  for (const NodeView& view : views) {
    if (!view.status) continue;
    const wire::NodeStatus& status = *view.status;
    text += fmt::format("\n{}: layers {}\n", status.name,
                        status.layers.empty() ? "none" : status.layers);
    if (status.resident.strategy.empty()) continue;
    text += load_text(status.resident);
    if (!status.kv_formula.empty()) {
      text += fmt::format("  KV cache: {} now; a full session is {}\n", bytes_text(status.kv_bytes),
                          status.kv_formula);
    }
    const std::size_t intervals = status.resident.intervals.size();
    text += fmt::format("  {} interval{}, {} outside {}\n", intervals, intervals == 1 ? "" : "s",
                        bytes_text(status.resident.outside_cover_bytes),
                        intervals == 1 ? "it" : "them");
    text += intervals_text(status.resident);
  }
  return text;
}

}  // namespace ds4::ctl
