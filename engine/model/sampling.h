#pragma once
// Which draw belongs to which row of a call.
#include <span>

#include "engine/model/slice.h"

namespace ds4 {

/// Calls `body(params, position)` for every wanted row in the order of the outputs; `position` is
/// that of the token which follows the row.
template <typename F>
void for_wanted(std::span<const Segment> segments, const F& body) {
  for (const Segment& segment : segments) {
    const auto count = static_cast<std::uint32_t>(segment.tokens.size());
    const std::uint32_t wanted = segment.logits == LogitsWanted::kNone   ? 0
                                 : segment.logits == LogitsWanted::kLast ? 1
                                                                         : count;
    for (std::uint32_t i = count - wanted; i < count; ++i)
      body(segment.sampling, segment.first_position + i + 1);
  }
}

}  // namespace ds4
