#pragma once
// What a run of layers takes of a node and how long it computes on them, from the node's offer.
// Pure. Layers are counted as in NodeOffer::layers: [begin, end), the output head at the end.
#include <cstddef>
#include <cstdint>

#include "agent/wire/offer.h"

namespace ds4::plan {

/// As the loader counts it before it takes a range (agent/loader/budget.h).
struct RangeNeed {
  std::uint64_t weight_bytes = 0;  // with what serves now, which stays until the commit
  std::uint64_t kv_bytes = 0;
  std::uint64_t scratch_bytes = 0;  // the pass's rows, and page tables
  std::uint64_t total() const { return weight_bytes + kv_bytes + scratch_bytes; }
};

/// Never below what the loader finds for the same range.
RangeNeed need_of(const wire::NodeOffer& offer, std::size_t begin, std::size_t end);

/// By the rate of the layer's kind, else of any. 0: not known.
double decode_seconds(const wire::NodeOffer& offer, const wire::LayerLoad& layer);
/// Of one row of a prefill.
double row_seconds(const wire::NodeOffer& offer, const wire::LayerLoad& layer);

}  // namespace ds4::plan
