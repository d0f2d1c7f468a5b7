#include "ctl/ds4ctl/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "ctl/common/terminal.h"
#include "engine/base/bytes_text.h"

namespace ds4::ctl {
namespace {

constexpr std::uint64_t kBarCells = 16;

/// 0 to `parts`; a load whose size is not known yet is at 0.
std::uint64_t share(const NodeProgress& node, std::uint64_t parts) {
  if (node.bytes_total == 0) return 0;
  const double fraction =
      static_cast<double>(node.bytes_done) / static_cast<double>(node.bytes_total);
  return static_cast<std::uint64_t>(std::clamp(fraction, 0.0, 1.0) * static_cast<double>(parts));
}

void write_stderr(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace

std::string progress_bar(const NodeProgress& node, std::size_t columns) {
  const std::uint64_t full = share(node, kBarCells);
  // On a narrow terminal the figures go first; what the node does always shows.
  std::string line =
      fmt::format("{:<8} {:<10} {:<8} [{}{}] {:>3} %  {} of {}", node.name, node.layers, node.doing,
                  std::string(full, '#'), std::string(kBarCells - full, '-'), share(node, 100),
                  bytes_text(node.bytes_done), bytes_text(node.bytes_total));
  if (node.seconds_left > 0) line += fmt::format(", {} s left", node.seconds_left);
  if (line.size() > columns) line.resize(columns);  // a wrapped line could not be redrawn
  return line;
}

std::vector<std::string> progress_lines(std::span<const NodeProgress> before,
                                        std::span<const NodeProgress> now) {
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < now.size(); ++i) {
    const NodeProgress& node = now[i];
    const bool is_new = i >= before.size() || before[i].doing != node.doing;
    const bool advanced = !is_new && share(before[i], 4) != share(node, 4);
    if (!is_new && !advanced) continue;
    std::string line = fmt::format("{} {}: {}", node.name, node.layers, node.doing);
    if (node.bytes_total > 0) {
      line += fmt::format(", {} of {}", bytes_text(node.bytes_done), bytes_text(node.bytes_total));
      if (node.seconds_left > 0) line += fmt::format(", {} s left", node.seconds_left);
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

void ProgressDisplay::update(const std::vector<NodeProgress>& nodes) {
  if (nodes == shown_) return;
  if (terminal_) {
    redraw(nodes);
  } else {
    for (const std::string& line : progress_lines(shown_, nodes)) write_stderr(line + "\n");
  }
  shown_ = nodes;
}

void ProgressDisplay::redraw(const std::vector<NodeProgress>& nodes) {
  std::string text;
  if (drawn_lines_ > 0) text += fmt::format("\x1b[{}A", drawn_lines_);
  const std::size_t columns = screen_size(STDERR_FILENO).columns;
  for (const NodeProgress& node : nodes) {
    text += progress_bar(node, columns);
    text += "\x1b[K\n";
  }
  drawn_lines_ = nodes.size();
  write_stderr(text);
}

}  // namespace ds4::ctl
