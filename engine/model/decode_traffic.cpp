#include "engine/model/decode_traffic.h"

#include <algorithm>
#include <string_view>

#include "engine/model/kv_cache.h"

namespace ds4 {
namespace {

constexpr std::uint32_t kIndexedRatio = 4;  // layers of this ratio have an indexer

/// Whether the indexer must leave something out at this position.
bool searches(const HyperParams& params, std::uint32_t position) {
  return (std::uint64_t{position} + 1) / kIndexedRatio > params.index_top_k;
}

std::uint64_t weight_bytes(const TensorInfo& tensor, const HyperParams& params, bool searching) {
  const std::string_view name = tensor.name;
  if (name == "token_embd.weight") return tensor.bytes / tensor.dims[1];
  if (name.ends_with(".ffn_gate_tid2eid.weight")) return tensor.bytes / tensor.dims[1];
  if (name.ends_with("_exps.weight")) return tensor.bytes / tensor.dims[2] * params.n_expert_used;
  // "indexer.": its queries; "indexer_compressor": its keys, which are made at every position.
  if (name.find(".indexer.") != name.npos && !searching) return 0;
  return tensor.bytes;
}

}  // namespace

DecodeTraffic decode_traffic(const GgufFile& file, const HyperParams& params,
                             const LayerRange& range, Graph graph, std::uint32_t position) {
  DecodeTraffic traffic;
  const bool searching = searches(params, position);
  for (const TensorInfo& tensor : file.tensors()) {
    if (range.owns(tensor.name)) traffic.weight_bytes += weight_bytes(tensor, params, searching);
  }
  const KvPlan plan = KvPlan::make(params, range, graph, position + 1);
  for (std::uint32_t layer = range.first; layer <= range.last; ++layer) {
    std::uint64_t rows = std::min(position + 1, params.window);
    const std::uint32_t ratio = params.compress_ratio[layer];
    if (ratio != 0) {
      const std::uint64_t visible = (std::uint64_t{position} + 1) / ratio;
      const bool search = ratio == kIndexedRatio && searching;
      rows += search ? params.index_top_k : visible;
      if (search) traffic.kv_bytes += visible * plan.index.row_bytes();
    }
    traffic.kv_bytes += rows * plan.kv.row_bytes();
  }
  return traffic;
}

}  // namespace ds4
