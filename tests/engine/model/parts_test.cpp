// The parts of the graph that can be looked at alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <random>
#include <vector>

#include "engine/model/compressor.h"
#include "engine/model/hyper_connection.h"
#include "engine/model/rope.h"
#include "engine/model/top_k.h"

namespace ds4 {
namespace {

// Rope.

HyperParams rope_params() {
  HyperParams hp;
  hp.rope_dim = 64;
  hp.rope_base = 10000;
  hp.compress_rope_base = 160000;
  hp.yarn_factor = 16;
  hp.yarn_original_context = 65536;
  return hp;
}

TEST(Rope, TurnsPairsByPositionTimesFrequency) {
  const Rope rope(rope_params(), false);
  std::vector<float> table(64), row(80, 1.0f);
  rope.fill(7, table.data());
  Rope::turn(row.data(), 80, table.data(), 64);
  for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(row[i], 1.0f);  // only the last 64
  for (std::size_t pair = 0; pair < 32; ++pair) {
    const double angle = 7 * std::pow(10000.0, -2.0 * static_cast<double>(pair) / 64);
    EXPECT_NEAR(row[16 + 2 * pair], std::cos(angle) - std::sin(angle), 1e-6);
    EXPECT_NEAR(row[17 + 2 * pair], std::sin(angle) + std::cos(angle), 1e-6);
  }
}

TEST(Rope, TurningBackUndoesTurning) {
  const Rope rope(rope_params(), true);
  std::vector<float> table(64), row(64);
  std::iota(row.begin(), row.end(), 1.0f);
  const auto before = row;
  rope.fill(123456, table.data());
  Rope::turn(row.data(), 64, table.data(), 64);
  Rope::turn_back(row.data(), 64, table.data(), 64);
  for (std::size_t i = 0; i < 64; ++i) EXPECT_NEAR(row[i], before[i], 1e-5);
}

TEST(Rope, YarnKeepsFastPairsAndSlowsSlowOnes) {
  const Rope rope(rope_params(), true);
  std::vector<float> table(64);
  rope.fill(1, table.data());
  const auto angle = [&](std::size_t pair) {
    return std::atan2(table[2 * pair + 1], table[2 * pair]);
  };
  const auto plain = [](std::size_t pair) {
    return std::pow(160000.0, -2.0 * static_cast<double>(pair) / 64);
  };
  // 65536 positions hold 32 turns of pair 15.5 and one turn of pair 24.7: the ramp is 15 to 25.
  EXPECT_NEAR(angle(0), 1.0, 1e-6);
  EXPECT_NEAR(angle(15) / plain(15), 1.0, 1e-5);
  EXPECT_NEAR(angle(20) / plain(20), 0.5 + 0.5 / 16, 1e-5);
  EXPECT_NEAR(angle(25) / plain(25), 1.0 / 16, 1e-5);
  EXPECT_NEAR(angle(31) / plain(31), 1.0 / 16, 1e-5);
}

TEST(Rope, AFarPositionIsAsExactAsANearOne) {
  const Rope rope(rope_params(), false);
  std::vector<float> table(64);
  rope.fill(1'000'000, table.data());
  const double angle = std::fmod(1e6, 2 * std::numbers::pi);
  EXPECT_NEAR(table[0], std::cos(angle), 1e-6);
  EXPECT_NEAR(table[1], std::sin(angle), 1e-6);
}

// Hyper-connections.

HyperConnectionWeights some_hc() {
  HyperConnectionWeights hc;
  for (std::uint32_t i = 0; i < kMixOutputs; ++i)
    hc.base.push_back(std::sin(static_cast<float>(i)));
  hc.scale = {0.5f, 1.5f, 2.0f};
  return hc;
}

TEST(HyperConnection, TheCrossMixingIsDoublyStochastic) {
  std::vector<float> m(kMixOutputs);
  for (std::uint32_t i = 0; i < kMixOutputs; ++i) m[i] = std::cos(static_cast<float>(3 * i));
  const StreamMix mix = mix_streams(some_hc(), m.data(), 1.0f, 1e-6f, 20);
  for (std::uint32_t i = 0; i < kStreams; ++i) {
    float row = 0, column = 0;
    for (std::uint32_t j = 0; j < kStreams; ++j) {
      row += mix.cross[i * kStreams + j];
      column += mix.cross[j * kStreams + i];
    }
    EXPECT_NEAR(row, 1.0f, 1e-3f);
    EXPECT_NEAR(column, 1.0f, 1e-5f);  // columns come last
  }
}

TEST(HyperConnection, OneIterationDividesByColumnsOnly) {
  HyperConnectionWeights hc;
  hc.base.assign(kMixOutputs, 0.0f);
  hc.scale = {1, 1, 1};
  std::vector<float> m(kMixOutputs, 0.0f);
  m[8] = std::log(5.0f);  // src 0 leans to dst 0: 5/8 against 1/8; the others give 1/4 each
  const StreamMix mix = mix_streams(hc, m.data(), 1.0f, 0.0f, 1);
  EXPECT_NEAR(mix.cross[0], 0.625f / (0.625f + 0.75f), 1e-6f);
  EXPECT_NEAR(mix.cross[4], 0.25f / (0.625f + 0.75f), 1e-6f);
  EXPECT_NEAR(mix.cross[1], 0.125f / (0.125f + 0.75f), 1e-6f);
}

TEST(HyperConnection, EachPartHasItsScaleAndRange) {
  std::vector<float> m(kMixOutputs, 2.0f);
  const HyperConnectionWeights hc = some_hc();
  const float norm = 0.25f;
  const StreamMix mix = mix_streams(hc, m.data(), norm, 1e-3f, 20);
  const auto sigmoid = [](float x) { return 1 / (1 + std::exp(-x)); };
  for (std::uint32_t s = 0; s < kStreams; ++s) {
    EXPECT_NEAR(mix.pre[s], sigmoid(0.5f * 0.5f + hc.base[s]) + 1e-3f, 1e-6f);
    EXPECT_NEAR(mix.post[s], 2 * sigmoid(0.5f * 1.5f + hc.base[4 + s]), 1e-6f);
  }
  const auto head = mix_for_head(hc, m.data(), norm, 1e-3f);
  EXPECT_NEAR(head[2], sigmoid(0.5f * 0.5f + hc.base[2]) + 1e-3f, 1e-6f);
}

// Compressor.

struct Pooling {
  std::uint32_t dim, ratio;
};

class CompressorTest : public testing::TestWithParam<Pooling> {};

TEST_P(CompressorTest, PoolsBlocksHoweverTheCallsAreCut) {
  const auto [dim, ratio] = GetParam();
  const Compressor compressor{cpu::ops_for(cpu::choose_isa()), dim, ratio};
  const std::size_t width = compressor.width(), tokens = 3 * ratio + 1;
  std::mt19937 random(1);
  std::normal_distribution<float> value;
  const auto noise = [&](std::size_t n) {
    std::vector<float> result(n);
    for (float& one : result) one = value(random);
    return result;
  };
  const auto kv = noise(tokens * width), gate = noise(tokens * width), ape = noise(ratio * width);
  const auto run = [&](std::uint32_t step, std::uint32_t split) {
    std::vector<float> max(width, NAN), sum(width, NAN), acc(width, NAN), rows(tokens * dim);
    const cpu::SoftmaxSums sums{max.data(), sum.data(), acc.data()};
    for (std::uint32_t at = 0; at < tokens; at += step) {
      const auto n = std::min<std::uint32_t>(step, static_cast<std::uint32_t>(tokens) - at);
      for (std::uint32_t begin = 0; begin < dim; begin += split)
        compressor.advance(sums, at, n, kv.data() + at * width, gate.data() + at * width,
                           ape.data(), begin, begin + split, rows.data() + std::size_t{at} * dim);
    }
    return rows;
  };
  const auto rows = run(static_cast<std::uint32_t>(tokens), dim);
  for (const std::uint32_t step : {1u, 3u, ratio, ratio + 1})
    EXPECT_EQ(run(step, 16), rows) << step;

  for (std::size_t b = 0; b < 3; ++b) {
    for (std::size_t i = 0; i < dim; ++i) {
      double weighted = 0, weights = 0;
      const auto add = [&](std::size_t token, std::size_t channel) {
        const double w =
            std::exp(double{gate[token * width + channel]} + ape[token % ratio * width + channel]);
        weighted += w * kv[token * width + channel];
        weights += w;
      };
      for (std::size_t t = 0; t < ratio; ++t) {
        if (ratio == 4 && b > 0) add((b - 1) * ratio + t, i);
        add(b * ratio + t, ratio == 4 ? dim + i : i);
      }
      EXPECT_NEAR(rows[((b + 1) * ratio - 1) * dim + i], weighted / weights, 1e-5) << b << ' ' << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(BothRatios, CompressorTest,
                         testing::Values(Pooling{32, 4}, Pooling{48, 128}));

// TopK.

std::vector<std::uint32_t> indices(std::span<const Candidate> candidates) {
  std::vector<std::uint32_t> result;
  for (const Candidate& one : candidates) result.push_back(one.index);
  std::sort(result.begin(), result.end());
  return result;
}

TEST(TopK, KeepsWhatASortWouldKeep) {
  std::mt19937 random(7);
  for (const std::uint32_t k : {1u, 2u, 7u, 64u}) {
    for (const std::uint32_t n : {1u, 5u, 64u, 1000u}) {
      std::vector<Candidate> all, buffer(2 * k);
      TopK best(buffer, k);
      for (std::uint32_t i = 0; i < n; ++i) {
        all.push_back({static_cast<float>(random() % 50), i});  // many ties
        best.add(all.back().score, i);
      }
      std::sort(all.begin(), all.end(),
                [](const Candidate& a, const Candidate& b) { return a.better_than(b); });
      all.resize(std::min(k, n));
      EXPECT_EQ(indices(best.finish()), indices(all)) << k << " of " << n;
    }
  }
}

TEST(TopK, TiesGoToTheLowerIndex) {
  std::vector<Candidate> buffer(4);
  TopK best(buffer, 2);
  for (std::uint32_t i = 0; i < 100; ++i) best.add(1.0f, i);
  EXPECT_EQ(indices(best.finish()), (std::vector<std::uint32_t>{0, 1}));
}

TEST(TopK, ScoresThatAreNoNumbersAreIgnored) {
  std::vector<Candidate> buffer(4);
  TopK best(buffer, 2);
  for (std::uint32_t i = 0; i < 10; ++i) best.add(i % 3 == 0 ? NAN : static_cast<float>(i), i);
  EXPECT_EQ(indices(best.finish()), (std::vector<std::uint32_t>{7, 8}));
}

}  // namespace
}  // namespace ds4
