// What a draw needs of its parameters, and what follows from one; not a line of it depends on who
// draws, so that a GPU's library needs no CPU kernels for it.
#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/text/philox.h"
#include "engine/text/sampler.h"

namespace ds4 {

std::uint64_t uniform_at(std::uint64_t seed, std::uint64_t position) {
  const auto low = [](std::uint64_t v) { return static_cast<std::uint32_t>(v); };
  const auto high = [](std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); };
  const PhiloxCounter random =
      philox4x32({low(position), high(position), 0, 0}, {low(seed), high(seed)});
  return (static_cast<std::uint64_t>(random[1]) << 32 | random[0]) >> 11;
}

Draw make_draw(const SamplingParams& params, std::uint64_t position) {
  constexpr double kTopPUnits = 0x1p32;
  Draw draw{};
  draw.greedy = !(params.temperature > 0);
  if (draw.greedy) return draw;
  draw.scale = static_cast<float>(
      std::min(double{kLog2E} / double{params.temperature}, double{kLargestFloat}));
  draw.top_k = params.top_k;
  // Not a number: off.
  draw.top_p = static_cast<std::uint64_t>(
      (params.top_p < 1 ? std::max(0.0, double{params.top_p}) : 1.0) * kTopPUnits);
  draw.least_weight =
      params.min_p > 0
          ? static_cast<std::uint64_t>(std::min(1.0, double{params.min_p}) * double{kFullWeight})
          : 0;
  draw.uniform = uniform_at(params.seed, position);
  return draw;
}

SampledToken to_token(const Pick& pick) {
  if (pick.token < 0) return {0, std::numeric_limits<float>::quiet_NaN()};
  const double total = static_cast<double>(pick.total) / static_cast<double>(kFullWeight);
  return {pick.token, static_cast<float>(double{pick.logit} - double{pick.peak} - std::log(total))};
}

}  // namespace ds4
