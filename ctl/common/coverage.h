#pragma once
// Do these layer ranges make one whole model? The one question behind `ds4ctl assign` (ranges of
// nodes) and `ds4-eval --split` (ranges of slices); pure.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/residency/layer_range.h"

namespace ds4::ctl {

struct OwnedRange {
  std::string owner;  // a node's name; empty where the range speaks for itself
  LayerRange range;
};

/// The ranges in the order of their layers. Errors (kInvalidArgument): nobody owns layer 0, a gap,
/// an overlap, nobody owns the output head; each names the owners and says what to give to whom.
Result<std::vector<OwnedRange>> check_coverage(std::span<const OwnedRange> ranges,
                                               std::uint32_t block_count);

/// "0:2,3:output" as ranges that cover a model of `block_count` layers, in order.
Result<std::vector<LayerRange>> parse_split(std::string_view text, std::uint32_t block_count);

}  // namespace ds4::ctl
