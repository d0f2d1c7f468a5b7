#pragma once
// The four residual streams: how a block reads them, and how its output goes back.
#include <array>

#include "engine/model/weights.h"

namespace ds4 {

inline constexpr std::uint32_t kStreams = 4;
inline constexpr std::uint32_t kMixOutputs = 2 * kStreams + kStreams * kStreams;

/// One row's mixing around one block.
struct StreamMix {
  std::array<float, kStreams> pre;               // x = sum_s pre[s] * streams[s]
  std::array<float, kStreams> post;              // new[d] = post[d] * y + ...
  std::array<float, kStreams * kStreams> cross;  // ... + sum_s cross[s * 4 + d] * streams[s]
};

/// From the outputs `m` of hc.fn on the flattened streams. The streams' norm has no weight, so it
/// is one factor, `norm`, of the outputs as well. `cross` is made doubly stochastic by `iterations`
/// rounds of dividing by sums.
StreamMix mix_streams(const HyperConnectionWeights& hc, const float* m, float norm, float eps,
                      std::uint32_t iterations);

/// The head's weights for the streams, likewise.
std::array<float, kStreams> mix_for_head(const HyperConnectionWeights& hc, const float* m,
                                         float norm, float eps);

}  // namespace ds4
