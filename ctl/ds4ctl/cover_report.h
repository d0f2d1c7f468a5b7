#pragma once
// A span cover as `ds4ctl cover` shows it; pure.
#include <string>

#include "engine/residency/layer_range.h"
#include "engine/residency/span_cover.h"

namespace ds4::ctl {

/// describe()'s line, the intervals, and what a range from the first byte to the last would have
/// taken.
std::string cover_text(const SpanCover& cover, const LayerRange& range);

}  // namespace ds4::ctl
