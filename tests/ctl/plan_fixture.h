#pragma once
// Offers of nodes that no machine has to be, for the planner's tests.
#include <cstdint>
#include <string>
#include <vector>

#include "ctl/ds4ctl/planner.h"

namespace ds4::ctl::testing_plans {

inline constexpr std::uint64_t kLayerBytes = 512 * 1000;

/// `blocks` equal layers and a head half as large; one layer decodes in a millisecond at 1 GB/s.
inline wire::NodeOffer offer(std::uint32_t blocks, std::uint64_t budget_bytes, double speed = 1.0) {
  wire::NodeOffer offer;
  offer.budget_bytes = budget_bytes;
  offer.page_bytes = 4096;
  offer.graph = "official";
  offer.stream_row_bytes = 4096;
  for (std::uint32_t i = 0; i < blocks; ++i) {
    offer.layers.push_back({0, kLayerBytes, 0, 1000, 1'000'000, 2'000'000});
  }
  offer.layers.push_back({wire::kHeadKind, kLayerBytes / 2, 0, 0, 500'000, 1'000'000});
  offer.overall.decode_bytes_per_s = static_cast<std::uint64_t>(1e9 * speed);
  offer.overall.row_macs_per_s = static_cast<std::uint64_t>(1e10 * speed);
  offer.measured = "measured on layer 0";
  return offer;
}

inline PlanInput input(std::vector<PlanNode> nodes) {
  return {std::move(nodes), {}};
}

/// Every way between two nodes alike.
inline void link_all(PlanInput& input, std::uint64_t round_trip_us, std::uint64_t bytes_per_s) {
  const std::size_t n = input.nodes.size();
  input.links.assign(n, std::vector<std::optional<wire::ProbeFigures>>(n));
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      if (i != j) input.links[i][j] = wire::ProbeFigures{round_trip_us, bytes_per_s, 1 << 20};
    }
  }
}

}  // namespace ds4::ctl::testing_plans
