#pragma once
// One frame of `ds4ctl top`; pure.
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "ctl/ds4ctl/route_figures.h"

namespace ds4::ctl {

struct TopSnapshot {
  std::string clock;             // "14:03:59"; may be empty
  std::vector<NodeView> before;  // about a window earlier, the same nodes
  std::vector<NodeView> now;
};

enum class Tone : std::uint8_t { kPlain, kHeading, kGood, kUnusual, kBad };

struct ScreenLine {
  std::string text;
  Tone tone = Tone::kPlain;
};

/// At most `height` lines of at most `width` characters: what is most wanted stands first, so what
/// a small screen has no room for is at the end.
std::vector<ScreenLine> render_top(const TopSnapshot& snapshot, std::size_t width,
                                   std::size_t height);

/// The lines as they are written to a terminal or, without colours, anywhere.
std::string painted(const ScreenLine& line, bool colour);

}  // namespace ds4::ctl
