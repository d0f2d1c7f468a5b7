#include "ctl/ds4ctl/cover_report.h"

#include <fmt/format.h>

#include "engine/base/bytes_text.h"

namespace ds4::ctl {

std::string cover_text(const SpanCover& cover, const LayerRange& range) {
  std::string text = fmt::format("layers {}: {}\n", range.to_string(), cover.describe());
  for (const Interval& interval : cover.intervals()) {
    text += fmt::format("  {:>16} .. {:<16} {:>12}\n", interval.begin, interval.end,
                        bytes_text(interval.bytes()));
  }
  const Interval hull = cover.hull();
  const std::uint64_t saved = hull.bytes() - cover.cover_bytes();
  text += fmt::format("  tensors alone: {}; rounded out to pages of {}: {}\n",
                      bytes_text(cover.tensor_bytes()), bytes_text(cover.page_bytes()),
                      bytes_text(cover.cover_bytes()));
  text += fmt::format("  one range from the first tensor to the last would take {}{}\n",
                      bytes_text(hull.bytes()),
                      saved == 0 ? ", the same" : ": " + bytes_text(saved) + " more");
  return text;
}

}  // namespace ds4::ctl
