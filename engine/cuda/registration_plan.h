#pragma once
// Into which pieces host pages are registered with the driver.
//
// The driver refuses a page twice, and lets go of a registration only as a whole; but slices share
// pages while a route changes, and each must be able to go alone. So the unit is the piece between
// two places where any part (layer, head) of the model begins or ends: every slice is a union of
// such pieces, whichever layers it holds, and a page on the border of two layers is a piece of its
// own.
#include <vector>

#include "engine/base/result.h"
#include "engine/residency/interval_set.h"
#include "engine/residency/span_cover.h"

namespace ds4 {
class ModelFile;
}

namespace ds4::cuda {

/// Where any part's cover begins or ends: sorted, each once.
Result<std::vector<std::uint64_t>> part_borders(const ModelFile& model);

/// `intervals`, cut wherever one of the sorted `borders` lies inside.
Intervals cut_at(std::span<const Interval> intervals, std::span<const std::uint64_t> borders);

}  // namespace ds4::cuda
