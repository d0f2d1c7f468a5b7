// Index scores from FP4 codes: against their definition, and one instruction set against another.
#include "engine/cpu/index_fp4.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "engine/cpu/ops.h"

namespace ds4::cpu {
namespace {

constexpr float kValues[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

/// Rows of codes with a few bytes between them, as a cache has.
struct CodedKeys {
  std::size_t dim, stride;
  std::vector<std::uint8_t> bytes;

  CodedKeys(std::size_t count, std::size_t dim_of_key)
      : dim(dim_of_key),
        stride(dim / 2 + (dim / kFp4Block + 3) / 4 * 4),
        bytes(count * stride, 0xAA) {}

  void set(std::size_t key, std::size_t i, unsigned code) {
    std::uint8_t& byte = bytes[key * stride + i / kFp4Block * 16 + i % 16];
    byte = static_cast<std::uint8_t>(i % kFp4Block < 16 ? (byte & 0xF0) | code
                                                        : (byte & 0x0F) | code << 4);
  }
  void set_exponent(std::size_t key, std::size_t block, int exponent) {
    bytes[key * stride + dim / 2 + block] =
        static_cast<std::uint8_t>(static_cast<std::int8_t>(exponent));
  }
  float value(std::size_t key, std::size_t i) const {
    const std::size_t block = i / kFp4Block;
    const unsigned byte = bytes[key * stride + block * 16 + i % 16];
    const unsigned code = i % kFp4Block < 16 ? byte & 0xF : byte >> 4;
    const auto exponent = static_cast<std::int8_t>(bytes[key * stride + dim / 2 + block]);
    return std::ldexp(kValues[code], exponent);
  }
  Fp4Rows rows(std::size_t first = 0) const {
    const std::uint8_t* at = bytes.data() + first * stride;
    return {at, reinterpret_cast<const std::int8_t*>(at + dim / 2), stride, dim};
  }
};

struct Scene {
  std::size_t heads, count;
  CodedKeys keys;
  std::vector<float> q, weights;  // {heads, dim}, {heads}

  Scene(std::size_t n_heads, std::size_t dim, std::size_t n_keys)
      : heads(n_heads), count(n_keys), keys(n_keys, dim), q(n_heads * dim), weights(n_heads, 1) {}

  static Scene random(std::size_t heads, std::size_t dim, std::size_t keys, unsigned seed) {
    Scene scene(heads, dim, keys);
    std::mt19937 random(seed);
    const auto code = [&] { return static_cast<unsigned>(random() & 0xF); };
    const auto exponent = [&] { return static_cast<int>(random() % 9) - 5; };
    for (std::size_t k = 0; k < keys; ++k) {
      for (std::size_t i = 0; i < dim; ++i) scene.keys.set(k, i, code());
      for (std::size_t block = 0; block < dim / kFp4Block; ++block)
        scene.keys.set_exponent(k, block, exponent());
    }
    for (std::size_t begin = 0; begin < scene.q.size(); begin += kFp4Block) {
      const int scale = exponent();
      for (std::size_t i = 0; i < kFp4Block; ++i)
        scene.q[begin + i] = std::ldexp(kValues[code()], scale);
    }
    std::uniform_real_distribution<float> weight(-1, 1);
    for (float& one : scene.weights) one = weight(random);
    return scene;
  }

  /// The scores of `n` keys from `first` on, by the kernels of `isa`.
  std::vector<float> scores(Isa isa, std::size_t first, std::size_t n) const {
    const Fp4IndexOps& ops = ops_for(isa).index_fp4;
    const std::size_t dim = keys.dim, blocks = dim / kFp4Block;
    std::vector<Fp4QueryBlock> coded(heads * blocks);
    for (std::size_t h = 0; h < heads; ++h)
      ops.code_query(q.data() + h * dim, dim, coded.data() + h * blocks);
    std::vector<float> memory(kKeyTile * dim), result(kKeyTile);
    const Fp4Keys spread = Fp4Keys::in(memory.data(), dim);
    ops.spread(keys.rows(first), n, spread);
    ops.score({coded.data(), weights.data(), heads, dim, spread, n, result.data()});
    result.resize(n);
    return result;
  }

  /// The score by its definition, and how far from it adding up floats may lead.
  std::pair<double, double> wanted(std::size_t key) const {
    double score = 0, bound = 0;
    for (std::size_t h = 0; h < heads; ++h) {
      double dot = 0, size = 0;
      for (std::size_t i = 0; i < keys.dim; ++i) {
        const double product = double{q[h * keys.dim + i]} * keys.value(key, i);
        dot += product;
        size += std::abs(product);
      }
      score += weights[h] * std::max(0.0, dot);
      bound += std::abs(weights[h]) * size;
    }
    const auto roundings = static_cast<double>(keys.dim / kFp4Block + heads + 1);
    return {score, bound * roundings * FLT_EPSILON / 2};
  }
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class IndexFp4 : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!is_supported(GetParam())) GTEST_SKIP() << "not on this machine";
  }
};

struct Size {
  std::size_t heads, dim, keys;
};

// Heads around the tiles of heads, keys around vectors and groups of four.
constexpr Size kSizes[] = {{1, 32, 1},   {2, 64, 3},   {3, 128, 5},   {4, 128, 64}, {5, 256, 17},
                           {7, 128, 33}, {8, 96, 63},  {64, 128, 64}, {6, 128, 16}, {4, 32, 48},
                           {1, 128, 9},  {2, 128, 31}, {9, 64, 62}};

TEST_P(IndexFp4, ScoresSumTheHeadsPositiveParts) {
  for (const auto& [heads, dim, keys] : kSizes) {
    const Scene scene = Scene::random(heads, dim, keys, static_cast<unsigned>(heads * 100 + keys));
    const auto found = scene.scores(GetParam(), 0, keys);
    for (std::size_t k = 0; k < keys; ++k) {
      const auto [wanted, bound] = scene.wanted(k);
      ASSERT_NEAR(found[k], wanted, bound) << heads << ' ' << dim << ' ' << keys << ": key " << k;
    }
  }
}

TEST_P(IndexFp4, EveryInstructionSetGivesTheSameBits) {
  for (const auto& [heads, dim, keys] : kSizes) {
    const Scene scene = Scene::random(heads, dim, keys, static_cast<unsigned>(heads * 101 + keys));
    EXPECT_TRUE(same_bits(scene.scores(GetParam(), 0, keys), scene.scores(Isa::kScalar, 0, keys)))
        << heads << ' ' << dim << ' ' << keys;
  }
}

TEST_P(IndexFp4, AKeysScoreDoesNotDependOnItsTile) {
  const Scene scene = Scene::random(5, 128, 64, 3);
  const auto together = scene.scores(GetParam(), 0, 64);
  for (std::size_t first = 0; first < 64; ++first) {
    for (const std::size_t n : {std::size_t{1}, std::size_t{6}, std::size_t{19}}) {
      if (first + n > 64) continue;
      const auto part = scene.scores(GetParam(), first, n);
      EXPECT_EQ(std::memcmp(part.data(), together.data() + first, n * sizeof(float)), 0) << first;
    }
  }
}

/// Key k's only value is that of code k, at a place of its own; every query is of one value.
TEST_P(IndexFp4, EveryCodeCountsForItsValue) {
  constexpr std::size_t kDim = 64;
  for (std::size_t place = 0; place < kDim; ++place) {
    Scene scene(2, kDim, 16);
    for (unsigned k = 0; k < 16; ++k) {
      for (std::size_t i = 0; i < kDim; ++i) scene.keys.set(k, i, 0);
      scene.keys.set(k, place, k);
      for (std::size_t block = 0; block < 2; ++block)
        scene.keys.set_exponent(k, block, static_cast<int>(k) - 8);
    }
    for (const float value : kValues) {
      std::fill_n(scene.q.begin(), kDim, value);
      std::fill_n(scene.q.begin() + kDim, kDim, -value);
      scene.weights = {1, -1};
      const auto found = scene.scores(GetParam(), 0, 16);
      for (unsigned k = 0; k < 16; ++k)
        ASSERT_EQ(found[k], std::ldexp(kValues[k], static_cast<int>(k) - 8) * value)
            << place << ' ' << value << ' ' << k;
    }
  }
}

/// The widest sums that the integers must hold, with either sign.
TEST_P(IndexFp4, TheLargestValuesAddUpExactly) {
  for (const unsigned code : {7u, 15u}) {
    Scene scene(2, 128, 20);
    for (std::size_t k = 0; k < 20; ++k) {
      for (std::size_t i = 0; i < 128; ++i) scene.keys.set(k, i, code);
      for (std::size_t block = 0; block < 4; ++block) scene.keys.set_exponent(k, block, 0);
    }
    std::fill_n(scene.q.begin(), 128, 6.0f);
    std::fill_n(scene.q.begin() + 128, 128, -6.0f);
    scene.weights = {1, 2};
    for (const float one : scene.scores(GetParam(), 0, 20))
      EXPECT_EQ(one, (code == 7 ? 1 : 2) * 36 * 128.0f);
  }
}

TEST_P(IndexFp4, ScalesFarApartStayApart) {
  Scene scene(1, 64, 3);
  for (std::size_t k = 0; k < 3; ++k) {
    for (std::size_t i = 0; i < 64; ++i) scene.keys.set(k, i, 2);
    scene.keys.set_exponent(k, 0, k == 0 ? 100 : -100);
    scene.keys.set_exponent(k, 1, k == 1 ? 117 : -117);
  }
  std::fill_n(scene.q.begin(), 32, 0x1p-20f);
  std::fill_n(scene.q.begin() + 32, 32, 0x1p-30f);
  const auto found = scene.scores(GetParam(), 0, 3);
  EXPECT_EQ(found[0], 0x1p85f);
  EXPECT_EQ(found[1], 0x1p92f);
  EXPECT_EQ(found[2], 0x1p-115f);
}

TEST_P(IndexFp4, AQueryOfZerosScoresNothing) {
  Scene scene = Scene::random(2, 128, 7, 5);
  std::fill(scene.q.begin(), scene.q.end(), -0.0f);
  for (const float one : scene.scores(GetParam(), 0, 7)) EXPECT_EQ(one, 0.0f);
}

TEST_P(IndexFp4, WhatIsNoRoundedNumberIsCutToWhatTheProductsHold) {
  std::vector<float> q(64, 1.0f);
  q[3] = NAN;
  q[20] = -INFINITY;
  q[40] = FLT_MAX;
  Fp4QueryBlock blocks[2];
  ops_for(GetParam()).index_fp4.code_query(q.data(), q.size(), blocks);
  for (const Fp4QueryBlock& block : blocks) {
    int sum = 0;
    for (const int one : block.values) {
      EXPECT_LE(std::abs(one), 12);
      sum += one;
    }
    EXPECT_EQ(block.offset, -12 * sum);
    EXPECT_TRUE(std::isnormal(block.scale));
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, IndexFp4,
                         testing::Values(Isa::kScalar, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& isa) { return std::string(to_string(isa.param)); });

}  // namespace
}  // namespace ds4::cpu
