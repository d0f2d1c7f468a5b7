#pragma once
// What a node could hold and how fast it would be: the material of a plan. An agent reports what
// each layer of its model would take of it and costs, its memory, and its measured rates; what
// ranges follow from that is the planner's business (agent/plan, ctl/ds4ctl/planner.h).
#include <cstdint>
#include <string>
#include <vector>

namespace ds4::wire {

inline constexpr std::size_t kMaxLayers = 4096;          // of an offer, the output head included
inline constexpr std::size_t kMaxSpeedRates = 64;        // of an offer
inline constexpr std::size_t kMaxProbeKeys = 256;        // of one ExpectRequest
inline constexpr std::uint64_t kHeadKind = ~0ULL;        // LayerLoad::kind of the output head
inline constexpr std::uint64_t kNoLimit = ~0ULL;         // NodeOffer::budget_bytes
inline constexpr std::size_t kMaxProbeBytes = 4u << 20;  // payload of one probe

/// One layer, or the output head; the embedding counts to layer 0. Adding up layers never comes to
/// less than what their range takes: pages that two layers share count twice.
struct LayerLoad {
  std::uint64_t kind = 0;  // compress ratio: layers of one kind compute alike; or kHeadKind
  std::uint64_t cover_bytes = 0;
  std::uint64_t held_bytes = 0;    // of the cover, what serves on this node already
  std::uint64_t kv_bytes = 0;      // one session of the configured context; 0 if kv_fixed_bytes
  std::uint64_t decode_bytes = 0;  // read for one decoded token
  std::uint64_t row_macs = 0;      // multiplications of one row
  bool operator==(const LayerLoad&) const = default;
};

/// How fast this node computes layers of one kind.
struct SpeedRate {
  std::uint64_t kind = 0;
  std::uint64_t decode_bytes_per_s = 0;  // of LayerLoad::decode_bytes
  std::uint64_t row_macs_per_s = 0;      // of a prefill's rows together; 0: not measured
  bool operator==(const SpeedRate&) const = default;
};

struct NodeOffer {
  // Memory, as the loader counts it: what serves already, new covers, caches and scratch together
  // may take budget_bytes.
  std::uint64_t budget_bytes = 0;
  bool device_memory = false;  // the budget is a GPU's, not the host's
  std::uint64_t held_bytes = 0;
  std::uint64_t kv_fixed_bytes = 0;  // memory.kv_mib, where it is set
  std::uint64_t scratch_bytes = 0;   // of the forward pass
  // What another model's loads depend on.
  std::uint64_t page_bytes = 0;
  std::uint64_t context = 0;   // engine.context
  std::uint64_t max_rows = 0;  // engine.max_rows
  std::string graph;           // engine.graph
  // The model.
  std::uint64_t stream_row_bytes = 0;  // of one row between two stages
  std::vector<LayerLoad> layers;       // first to last, then the output head
  // Speed. Empty rates: not known before the node holds layers.
  std::vector<SpeedRate> rates;
  /// Of any layer: from all rates together, else from the memory's bandwidth. 0: not known.
  SpeedRate overall;
  std::string measured;  // on what: a sentence
  bool operator==(const NodeOffer&) const = default;
};

/// One node's way to another, over an encrypted connection like those of a route.
struct ProbeFigures {
  std::uint64_t round_trip_us = 0;
  std::uint64_t bytes_per_s = 0;
  std::uint64_t probe_bytes = 0;  // of the message that told the rate
  bool operator==(const ProbeFigures&) const = default;
};

}  // namespace ds4::wire
