#include "agent/plan/layer_loads.h"

#include <algorithm>
#include <string_view>

#include "engine/model/decode_traffic.h"
#include "engine/model/kv_cache.h"
#include "engine/residency/span_cover.h"

namespace ds4::plan {
namespace {

/// Multiplications that one row makes with this tensor: none for what is only looked up or added.
std::uint64_t macs_of(const TensorInfo& tensor, const HyperParams& params) {
  const std::string_view name = tensor.name;
  if (tensor.n_dims < 2 || name == "token_embd.weight" ||
      name.ends_with(".ffn_gate_tid2eid.weight")) {
    return 0;
  }
  std::uint64_t elements = 1;
  for (std::uint32_t i = 0; i < tensor.n_dims; ++i) elements *= tensor.dims[i];
  if (name.ends_with("_exps.weight")) return elements / tensor.dims[2] * params.n_expert_used;
  return elements;
}

std::uint64_t macs_of(const GgufFile& file, const HyperParams& params, const LayerRange& range) {
  std::uint64_t macs = 0;
  for (const TensorInfo& tensor : file.tensors()) {
    if (range.owns(tensor.name)) macs += macs_of(tensor, params);
  }
  return macs;
}

struct Counted {
  Intervals cover;
  std::uint64_t decode_bytes = 0;
  std::uint64_t macs = 0;
};

}  // namespace

std::uint32_t session_context(const HyperParams& params, std::uint32_t configured) {
  return params.context_length > 0 ? std::min(configured, params.context_length) : configured;
}

Result<std::vector<wire::LayerLoad>> layer_loads(const GgufFile& file, const HyperParams& params,
                                                 const LoadSettings& settings,
                                                 std::span<const Interval> held) {
  const std::uint32_t context = session_context(params, settings.context);
  const std::uint32_t position = std::min(kPlannedPosition, std::max(1U, context) - 1);
  const auto count = [&](const LayerRange& range) -> Result<Counted> {
    DS4_ASSIGN(const SpanCover cover, SpanCover::of(file, range, settings.page_bytes));
    const DecodeTraffic traffic = decode_traffic(file, params, range, settings.graph, position);
    return Counted{{cover.intervals().begin(), cover.intervals().end()},
                   traffic.weight_bytes + traffic.kv_bytes,
                   macs_of(file, params, range)};
  };
  const auto load_of = [&](const Intervals& cover, std::uint64_t kind) {
    wire::LayerLoad load;
    load.kind = kind;
    load.cover_bytes = total_bytes(cover);
    load.held_bytes = total_bytes(intersection(cover, held));
    return load;
  };

  std::vector<wire::LayerLoad> loads;
  Counted last;
  for (std::uint32_t layer = 0; layer < params.n_layer; ++layer) {
    const LayerRange one{layer, layer, false};
    DS4_ASSIGN(last, count(one));
    wire::LayerLoad& load = loads.emplace_back(load_of(last.cover, params.compress_ratio[layer]));
    if (!settings.kv_fixed) {
      load.kv_bytes = KvPlan::make(params, one, settings.graph, context).bytes;
    }
    load.decode_bytes = last.decode_bytes;
    load.row_macs = last.macs;
  }
  // No range is the head alone: it is what the last layer with it has beyond the last layer.
  DS4_ASSIGN(const Counted end, count({params.n_layer - 1, params.n_layer - 1, true}));
  wire::LayerLoad& head =
      loads.emplace_back(load_of(difference(end.cover, last.cover), wire::kHeadKind));
  head.decode_bytes = end.decode_bytes - last.decode_bytes;
  head.row_macs = end.macs - last.macs;
  return loads;
}

std::uint64_t stream_row_bytes(const HyperParams& params) {
  return std::uint64_t{params.n_streams} * params.n_embd * sizeof(float);
}

std::uint64_t scratch_bytes(const HyperParams& hp, std::uint32_t max_rows) {
  const std::uint64_t embd = hp.n_embd, heads = std::uint64_t{hp.n_head} * hp.head_dim;
  const std::uint64_t experts = hp.n_expert_used + 1;
  const std::uint64_t groups = std::uint64_t{hp.n_group} * hp.o_rank;
  const std::uint64_t index = std::uint64_t{hp.index_heads} * hp.index_dim;
  // Floats of a row as the pass keeps them, then the same rows prepared for the products.
  const std::uint64_t kept = hp.n_streams * embd + 2 * embd + hp.q_rank + 2 * heads +
                             6 * hp.head_dim + groups + index + hp.n_expert +
                             experts * (2 * hp.expert_ffn + embd) + 4 * hp.index_top_k;
  const std::uint64_t prepared =
      hp.n_streams * embd + embd + hp.q_rank + heads + groups + experts * hp.expert_ffn;
  return (kept + prepared) * sizeof(float) * max_rows;
}

std::uint64_t page_table_bytes(std::uint64_t mapped_bytes) {
  return mapped_bytes / 512;
}

}  // namespace ds4::plan
