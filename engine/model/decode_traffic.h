#pragma once
// How many bytes one decoded token makes a slice read, from the tensor table alone.
//
// Decoding one token for one session reuses nothing: every weight that takes part is read from
// memory once, so tokens per second are at most bandwidth / these bytes. What takes part is known
// beforehand: all tensors, but for the experts (as many as the router picks), the embedding (one
// row), the expert table of hash layers (one token's entry), and the indexer's query side (nothing
// while the compressed rows are so few that all are attended to).
#include <cstdint>

#include "engine/gguf/gguf.h"
#include "engine/model/hyper_params.h"
#include "engine/residency/layer_range.h"

namespace ds4 {

struct DecodeTraffic {
  std::uint64_t weight_bytes = 0;
  /// Cached rows that attention and the indexer read, each counted once.
  std::uint64_t kv_bytes = 0;
};

/// For the token at `position` (its own cached rows included), in the layers of `range`. Pure;
/// `params` are those of `file`.
DecodeTraffic decode_traffic(const GgufFile& file, const HyperParams& params,
                             const LayerRange& range, Graph graph, std::uint32_t position);

}  // namespace ds4
