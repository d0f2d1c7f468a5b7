#pragma once
// What each layer of a model file takes and costs, from its tensor table alone: the columns that
// every plan adds up. Agents make them of their own file, `ds4ctl plan --model` of any other; both
// by this code, so the two cannot disagree. Pure.
#include <cstdint>
#include <span>
#include <vector>

#include "agent/wire/offer.h"
#include "engine/base/result.h"
#include "engine/gguf/gguf.h"
#include "engine/model/hyper_params.h"
#include "engine/residency/interval_set.h"

namespace ds4::plan {

/// Where a decoded token stands whose bytes are counted: beyond the raw window, so that compressed
/// rows are read as well.
inline constexpr std::uint32_t kPlannedPosition = 1024;

struct LoadSettings {
  Graph graph = Graph::kOfficial;
  std::uint32_t context = 0;  // engine.context: above the model's own it counts as that
  bool kv_fixed = false;      // caches are counted as one sum elsewhere: kv_bytes is 0
  std::uint64_t page_bytes = 4096;
};

/// Positions of a session: as configured, but not above the model's own.
std::uint32_t session_context(const HyperParams& params, std::uint32_t configured);

/// First layer to last, then the output head. `held`: the bytes of the file that serve already.
/// Errors: those of SpanCover.
Result<std::vector<wire::LayerLoad>> layer_loads(const GgufFile& file, const HyperParams& params,
                                                 const LoadSettings& settings,
                                                 std::span<const Interval> held = {});

/// Of one row that goes from one stage to the next.
std::uint64_t stream_row_bytes(const HyperParams& params);

/// Of the forward pass on the CPU: what `max_rows` rows of activations take, generously.
std::uint64_t scratch_bytes(const HyperParams& params, std::uint32_t max_rows);
/// Page tables: eight bytes for each page of 4 KiB.
std::uint64_t page_table_bytes(std::uint64_t mapped_bytes);

}  // namespace ds4::plan
