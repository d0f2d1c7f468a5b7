#include "engine/model/hyper_connection.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace ds4 {
namespace {

float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

typedef float Vec4 __attribute__((vector_size(4 * sizeof(float))));

/// [src], each a vector over dst.
using Cross = std::array<Vec4, kStreams>;

Cross softmax_over_dst(const std::array<float, kStreams * kStreams>& logits) {
  Cross c;
  for (std::uint32_t src = 0; src < kStreams; ++src) {
    const float* row = logits.data() + src * kStreams;
    const float top = *std::max_element(row, row + kStreams);
    float sum = 0;
    for (std::uint32_t dst = 0; dst < kStreams; ++dst)
      sum += c[src][dst] = std::exp(row[dst] - top);
    c[src] /= Vec4{} + sum;
  }
  return c;
}

void divide_by_column_sums(Cross& c, float eps) {
  const Vec4 inverse = 1.0f / (((c[0] + c[1]) + (c[2] + c[3])) + eps);
  for (Vec4& row : c) row *= inverse;
}

void divide_by_row_sums(Cross& c, float eps) {
  // Lane i of the sums is row i's: pairs of rows are interleaved and added, twice.
  const Vec4 pair01 = __builtin_shufflevector(c[0], c[1], 0, 4, 1, 5) +
                      __builtin_shufflevector(c[0], c[1], 2, 6, 3, 7);
  const Vec4 pair23 = __builtin_shufflevector(c[2], c[3], 0, 4, 1, 5) +
                      __builtin_shufflevector(c[2], c[3], 2, 6, 3, 7);
  const Vec4 sums = __builtin_shufflevector(pair01, pair23, 0, 1, 4, 5) +
                    __builtin_shufflevector(pair01, pair23, 2, 3, 6, 7);
  const Vec4 inverse = 1.0f / (sums + eps);
  c[0] *= __builtin_shufflevector(inverse, inverse, 0, 0, 0, 0);
  c[1] *= __builtin_shufflevector(inverse, inverse, 1, 1, 1, 1);
  c[2] *= __builtin_shufflevector(inverse, inverse, 2, 2, 2, 2);
  c[3] *= __builtin_shufflevector(inverse, inverse, 3, 3, 3, 3);
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
  Cross c = softmax_over_dst(mix.cross);
  for (Vec4& row : c) row += eps;
  divide_by_column_sums(c, eps);
  for (std::uint32_t i = 1; i < iterations; ++i) {
    divide_by_row_sums(c, eps);
    divide_by_column_sums(c, eps);
  }
  std::memcpy(mix.cross.data(), c.data(), sizeof c);
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
