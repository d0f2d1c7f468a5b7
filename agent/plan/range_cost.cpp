#include "agent/plan/range_cost.h"

#include <algorithm>

#include "agent/plan/layer_loads.h"

namespace ds4::plan {
namespace {

const wire::SpeedRate* rate_of(const wire::NodeOffer& offer, std::uint64_t kind) {
  const auto found = std::find_if(offer.rates.begin(), offer.rates.end(),
                                  [&](const wire::SpeedRate& rate) { return rate.kind == kind; });
  return found == offer.rates.end() ? nullptr : &*found;
}

double seconds(const wire::NodeOffer& offer, std::uint64_t kind,
               std::uint64_t wire::SpeedRate::*rate, std::uint64_t amount) {
  const wire::SpeedRate* measured = rate_of(offer, kind);
  const std::uint64_t per_second =
      measured != nullptr && measured->*rate > 0 ? measured->*rate : offer.overall.*rate;
  return per_second == 0 ? 0 : static_cast<double>(amount) / static_cast<double>(per_second);
}

}  // namespace

RangeNeed need_of(const wire::NodeOffer& offer, std::size_t begin, std::size_t end) {
  RangeNeed need;
  need.weight_bytes = offer.held_bytes;
  need.kv_bytes = offer.kv_fixed_bytes;
  for (std::size_t i = begin; i < end; ++i) {
    const wire::LayerLoad& layer = offer.layers[i];
    need.weight_bytes += layer.cover_bytes - std::min(layer.cover_bytes, layer.held_bytes);
    need.kv_bytes += layer.kv_bytes;
  }
  need.scratch_bytes = offer.scratch_bytes + page_table_bytes(need.weight_bytes);
  return need;
}

double decode_seconds(const wire::NodeOffer& offer, const wire::LayerLoad& layer) {
  return seconds(offer, layer.kind, &wire::SpeedRate::decode_bytes_per_s, layer.decode_bytes);
}

double row_seconds(const wire::NodeOffer& offer, const wire::LayerLoad& layer) {
  return seconds(offer, layer.kind, &wire::SpeedRate::row_macs_per_s, layer.row_macs);
}

}  // namespace ds4::plan
