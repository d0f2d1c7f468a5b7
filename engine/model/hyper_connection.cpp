#include "engine/model/hyper_connection.h"

#include <algorithm>
#include <cmath>

namespace ds4 {
namespace {

float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

using Cross = std::array<float, kStreams * kStreams>;  // [src][dst]

void softmax_over_dst(Cross& c) {
  for (std::uint32_t src = 0; src < kStreams; ++src) {
    float* row = c.data() + src * kStreams;
    const float top = *std::max_element(row, row + kStreams);
    float sum = 0;
    for (std::uint32_t dst = 0; dst < kStreams; ++dst) sum += row[dst] = std::exp(row[dst] - top);
    for (std::uint32_t dst = 0; dst < kStreams; ++dst) row[dst] /= sum;
  }
}

void divide_by_column_sums(Cross& c, float eps) {
  std::array<float, kStreams> sum{};
  for (std::uint32_t i = 0; i < c.size(); ++i) sum[i % kStreams] += c[i];
  for (std::uint32_t i = 0; i < c.size(); ++i) c[i] /= sum[i % kStreams] + eps;
}

void divide_by_row_sums(Cross& c, float eps) {
  std::array<float, kStreams> sum{};
  for (std::uint32_t i = 0; i < c.size(); ++i) sum[i / kStreams] += c[i];
  for (std::uint32_t i = 0; i < c.size(); ++i) c[i] /= sum[i / kStreams] + eps;
}

}  // namespace

StreamMix mix_streams(const HyperConnectionWeights& hc, const float* m, float norm, float eps,
                      std::uint32_t iterations) {
  const auto logit = [&](std::uint32_t i, std::uint32_t part) {
    return m[i] * norm * hc.scale[part] + hc.base[i];
  };
  StreamMix mix;
  for (std::uint32_t s = 0; s < kStreams; ++s) {
    mix.pre[s] = sigmoid(logit(s, 0)) + eps;
    mix.post[s] = 2 * sigmoid(logit(kStreams + s, 1));
  }
  for (std::uint32_t i = 0; i < mix.cross.size(); ++i) mix.cross[i] = logit(2 * kStreams + i, 2);
  softmax_over_dst(mix.cross);
  for (float& value : mix.cross) value += eps;
  divide_by_column_sums(mix.cross, eps);
  for (std::uint32_t i = 1; i < iterations; ++i) {
    divide_by_row_sums(mix.cross, eps);
    divide_by_column_sums(mix.cross, eps);
  }
  return mix;
}

std::array<float, kStreams> mix_for_head(const HyperConnectionWeights& hc, const float* m,
                                         float norm, float eps) {
  std::array<float, kStreams> weights;
  for (std::uint32_t s = 0; s < kStreams; ++s)
    weights[s] = sigmoid(m[s] * norm * hc.scale[0] + hc.base[s]) + eps;
  return weights;
}

}  // namespace ds4
