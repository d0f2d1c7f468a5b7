// Attention and index scores over tiles of keys against their definitions in double precision.
#include "engine/cpu/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "engine/cpu/ops.h"

namespace ds4::cpu {
namespace {

using Floats = std::vector<float>;

Floats random_floats(std::size_t n, float spread, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> value(-spread, spread);
  Floats result(n);
  for (float& one : result) one = value(random);
  return result;
}

double dot(const float* a, const float* b, std::size_t n) {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += double{a[i]} * b[i];
  return sum;
}

/// Calls body(keys, first, count) for tiles of keys.
template <typename F>
void for_tiles(const Floats& keys, std::size_t total, std::size_t dim, const F& body) {
  const float* tile[kKeyTile];
  for (std::size_t first = 0; first < total; first += kKeyTile) {
    const std::size_t count = std::min(kKeyTile, total - first);
    for (std::size_t k = 0; k < count; ++k) tile[k] = keys.data() + (first + k) * dim;
    fill_key_group(tile, count);
    body(tile, first, count);
  }
}

class AttentionTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!is_supported(GetParam())) GTEST_SKIP() << "not on this machine";
  }
  const AttentionOps& ops() const { return ops_for(GetParam()).attention; }

  /// Outputs {heads, dim}.
  Floats attend(const Floats& q, const Floats& keys, const Floats& sinks, std::size_t dim,
                std::size_t total, float scale) const {
    const std::size_t heads = sinks.size();
    Floats max = sinks, sum(heads, 1.0f), acc(heads * dim, 0.0f);
    AttentionTile tile;
    tile.q = q.data();
    tile.heads = heads;
    tile.dim = dim;
    tile.scale = scale;
    tile.max = max.data();
    tile.sum = sum.data();
    tile.acc = acc.data();
    for_tiles(keys, total, dim, [&](const float* const* of, std::size_t, std::size_t count) {
      tile.keys = of;
      tile.count = count;
      ops().attend(tile);
    });
    ops().finish(tile);
    return acc;
  }
};

struct Size {
  std::size_t heads, dim, keys;
};

// Heads and keys around the sizes of tiles and groups; dims around whole registers.
constexpr Size kSizes[] = {{1, 16, 1},  {2, 48, 3},    {3, 64, 4},     {4, 128, 63}, {5, 128, 64},
                           {7, 80, 65}, {8, 512, 130}, {64, 128, 190}, {6, 208, 257}};

TEST_P(AttentionTest, IsTheSoftmaxOverKeysAndSink) {
  for (const auto& [heads, dim, total] : kSizes) {
    const Floats q = random_floats(heads * dim, 2, 1), keys = random_floats(total * dim, 2, 2);
    const Floats sinks = random_floats(heads, 3, 3);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    const Floats found = attend(q, keys, sinks, dim, total, scale);
    for (std::size_t h = 0; h < heads; ++h) {
      double top = sinks[h];
      std::vector<double> score(total);
      for (std::size_t k = 0; k < total; ++k)
        top = std::max(top, score[k] = scale * dot(&q[h * dim], &keys[k * dim], dim));
      double sum = std::exp(sinks[h] - top);
      std::vector<double> wanted(dim);
      for (std::size_t k = 0; k < total; ++k) {
        const double weight = std::exp(score[k] - top);
        sum += weight;
        for (std::size_t i = 0; i < dim; ++i) wanted[i] += weight * keys[k * dim + i];
      }
      for (std::size_t i = 0; i < dim; ++i)
        ASSERT_NEAR(found[h * dim + i], wanted[i] / sum, 2e-5)
            << heads << ' ' << dim << ' ' << total << ": head " << h << ", value " << i;
    }
  }
}

TEST_P(AttentionTest, ScoresFarApartNeitherOverflowNorVanish) {
  constexpr std::size_t kDim = 16, kKeys = 70;
  const Floats q(kDim, 30.0f);
  Floats keys(kKeys * kDim, -30.0f);                  // scores of -14400
  std::fill_n(keys.begin() + 5 * kDim, kDim, 30.0f);  // but one of 14400
  const Floats found = attend(q, keys, {0.0f}, kDim, kKeys, 1.0f);
  for (const float one : found) EXPECT_EQ(one, 30.0f);
  const Floats drowned = attend(q, keys, {1e9f}, kDim, kKeys, 1.0f);
  for (const float one : drowned) EXPECT_EQ(one, 0.0f);
}

/// What makes batching and threading free: a head's result does not depend on the heads beside it.
TEST_P(AttentionTest, AHeadAloneGivesTheSameBits) {
  constexpr std::size_t kHeads = 7, kDim = 80, kKeys = 131;
  const Floats q = random_floats(kHeads * kDim, 2, 4), keys = random_floats(kKeys * kDim, 2, 5);
  const Floats sinks = random_floats(kHeads, 1, 6);
  const Floats together = attend(q, keys, sinks, kDim, kKeys, 0.1f);
  for (std::size_t h = 0; h < kHeads; ++h) {
    const Floats one(q.begin() + static_cast<std::ptrdiff_t>(h * kDim),
                     q.begin() + static_cast<std::ptrdiff_t>((h + 1) * kDim));
    const Floats alone = attend(one, keys, {sinks[h]}, kDim, kKeys, 0.1f);
    EXPECT_EQ(std::memcmp(alone.data(), &together[h * kDim], kDim * sizeof(float)), 0) << h;
  }
}

TEST_P(AttentionTest, IndexScoresSumTheHeadsPositiveParts) {
  for (const auto& [heads, dim, total] : kSizes) {
    const Floats q = random_floats(heads * dim, 1, 7), keys = random_floats(total * dim, 1, 8);
    const Floats weights = random_floats(heads, 1, 9);
    const std::size_t n_heads = heads, n_dim = dim;
    for_tiles(keys, total, dim, [&](const float* const* of, std::size_t first, std::size_t count) {
      float scores[kKeyTile];
      ops().index({q.data(), weights.data(), n_heads, n_dim, of, count, scores});
      for (std::size_t k = 0; k < count; ++k) {
        double wanted = 0;
        for (std::size_t h = 0; h < n_heads; ++h)
          wanted +=
              weights[h] * std::max(0.0, dot(&q[h * n_dim], &keys[(first + k) * n_dim], n_dim));
        ASSERT_NEAR(scores[k], wanted, 1e-4) << n_heads << ' ' << n_dim << ": key " << first + k;
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, AttentionTest,
                         testing::Values(Isa::kScalar, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& isa) { return std::string(to_string(isa.param)); });

}  // namespace
}  // namespace ds4::cpu
