#include "engine/cuda/registration_plan.h"

#include <algorithm>
#include <charconv>

#include "engine/gguf/model_file.h"
#include "engine/residency/memfd_part.h"

namespace ds4::cuda {
namespace {

/// The largest N of all tensors `blk.N.*`.
std::uint32_t last_layer(const GgufFile& file) {
  constexpr std::string_view kBlock = "blk.";
  std::uint32_t last = 0;
  for (const TensorInfo& tensor : file.tensors()) {
    if (!tensor.name.starts_with(kBlock)) continue;
    std::uint32_t layer = 0;
    const char* const begin = tensor.name.data() + kBlock.size();
    std::from_chars(begin, tensor.name.data() + tensor.name.size(), layer);
    last = std::max(last, layer);
  }
  return last;
}

}  // namespace

Result<std::vector<std::uint64_t>> part_borders(const ModelFile& model) {
  const LayerRange all{0, last_layer(model.gguf()), true};
  DS4_ASSIGN(const std::vector<PartPlan> parts, plan_parts(model, all));
  std::vector<std::uint64_t> borders;
  for (const PartPlan& part : parts) {
    for (const Interval& interval : part.cover.intervals()) {
      borders.push_back(interval.begin);
      borders.push_back(interval.end);
    }
  }
  std::ranges::sort(borders);
  const auto repeated = std::ranges::unique(borders);
  borders.erase(repeated.begin(), repeated.end());
  return borders;
}

Intervals cut_at(std::span<const Interval> intervals, std::span<const std::uint64_t> borders) {
  Intervals pieces;
  for (const Interval& interval : intervals) {
    std::uint64_t begin = interval.begin;
    auto border = std::ranges::upper_bound(borders, begin);
    for (; border != borders.end() && *border < interval.end; ++border) {
      pieces.push_back({begin, *border});
      begin = *border;
    }
    pieces.push_back({begin, interval.end});
  }
  return pieces;
}

}  // namespace ds4::cuda
