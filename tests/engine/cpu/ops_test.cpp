// Every instruction set's vector operations against the same in double precision, one value at a
// time.
#include "engine/cpu/ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "engine/text/draw.h"

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

class OpsTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!is_supported(GetParam())) GTEST_SKIP() << "not on this machine";
  }
  const Ops& ops() const { return ops_for(GetParam()); }
};

// Lengths around every unrolled step: one block, an odd number of blocks, a long row.
constexpr std::size_t kLengths[] = {16, 48, 64, 80, 208, 4096};

TEST_P(OpsTest, RmsNormDividesByTheRootOfTheMeanSquare) {
  for (const std::size_t n : kLengths) {
    const Floats x = random_floats(n, 3, 1), weight = random_floats(n, 1, 2);
    double sum = 0;
    for (const float one : x) sum += double{one} * one;
    EXPECT_NEAR(ops().sum_squares(x.data(), n) / sum, 1.0, 1e-5) << n;
    const double scale = 1 / std::sqrt(sum / static_cast<double>(n) + 1e-3);
    Floats with(n), without(x);
    ops().rms_norm(x.data(), weight.data(), n, 1e-3f, with.data());
    ops().rms_norm(without.data(), nullptr, n, 1e-3f, without.data());  // in place
    for (std::size_t i = 0; i < n; ++i) {
      EXPECT_NEAR(with[i], x[i] * scale * weight[i], 1e-5) << n << ' ' << i;
      EXPECT_NEAR(without[i], x[i] * scale, 1e-5) << n << ' ' << i;
    }
  }
}

TEST_P(OpsTest, DrawsWeighEveryLogitAsOneTokenAtATimeWould) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const std::size_t n : {1u, 5u, 16u, 33u, 4096u}) {
    Floats logits = random_floats(n, 40, static_cast<unsigned>(n));
    const float peak = *std::max_element(logits.begin(), logits.end());
    const float odd[] = {-kInf,          kInf, std::nanf(""),
                         -kLargestFloat, peak, std::nextafter(peak, -kInf)};
    for (std::size_t i = 0; i < std::size(odd) && 3 * i + 1 < n; ++i) {
      if (logits[3 * i] != peak) logits[3 * i] = odd[i];
    }
    EXPECT_EQ(ops().draw_peak(logits.data(), n), peak) << n;
    for (const float scale : {0.0f, 0.3f, kLog2E, 1e30f, kLargestFloat}) {
      std::vector<std::uint64_t> weights(n, 7), expected(n);
      std::uint64_t sum = 0;
      for (std::size_t i = 0; i < n; ++i) {
        if (is_finite(logits[i])) expected[i] = weight_of(logits[i], peak, scale);
        sum += expected[i];
      }
      EXPECT_EQ(ops().draw_weights(logits.data(), n, peak, scale, weights.data()), sum) << n;
      EXPECT_EQ(weights, expected) << n << ' ' << scale;
      EXPECT_EQ(ops().draw_weights(logits.data(), n, peak, scale, nullptr), sum) << n;
    }
  }
  const Floats none(19, -kInf);
  EXPECT_EQ(ops().draw_peak(none.data(), none.size()), -kInf);
}

TEST_P(OpsTest, RmsNormOfZerosIsZero) {
  Floats x(32, 0.0f);
  ops().rms_norm(x.data(), nullptr, x.size(), 1e-6f, x.data());
  EXPECT_EQ(x, Floats(32, 0.0f));
}

TEST_P(OpsTest, SwigluClampsBothSidesOfUpAndTheTopOfGate) {
  Floats gate = random_floats(64, 12, 3), up = random_floats(64, 12, 4);
  gate[0] = -200;  // e^200 overflows
  gate[1] = 200;
  up[2] = -1e30f;
  Floats y(64);
  ops().swiglu(gate.data(), up.data(), 64, 7, y.data());
  for (std::size_t i = 0; i < 64; ++i) {
    const double g = std::min(double{gate[i]}, 7.0), u = std::clamp(double{up[i]}, -7.0, 7.0);
    EXPECT_NEAR(y[i], g / (1 + std::exp(-g)) * u, 1e-5) << gate[i] << ' ' << up[i];
  }
}

TEST_P(OpsTest, StreamsAreGatheredAndSpread) {
  constexpr std::size_t kN = 48;
  Floats streams = random_floats(4 * kN, 1, 5);
  const Floats before = streams, w = random_floats(4, 1, 6), post = random_floats(4, 2, 7);
  const Floats mix = random_floats(16, 1, 8), y = random_floats(kN, 1, 9);
  Floats x(kN);
  ops().gather_streams(streams.data(), w.data(), kN, x.data());
  ops().spread_streams(streams.data(), post.data(), mix.data(), y.data(), kN);
  for (std::size_t i = 0; i < kN; ++i) {
    double sum = 0;
    for (std::size_t s = 0; s < 4; ++s) sum += double{w[s]} * before[s * kN + i];
    EXPECT_NEAR(x[i], sum, 1e-6);
    for (std::size_t d = 0; d < 4; ++d) {
      double next = double{post[d]} * y[i];
      for (std::size_t s = 0; s < 4; ++s) next += double{mix[s * 4 + d]} * before[s * kN + i];
      EXPECT_NEAR(streams[d * kN + i], next, 1e-6) << d << ' ' << i;
    }
  }
}

TEST_P(OpsTest, WeightedSumPicksItsRows) {
  constexpr std::size_t kN = 32;
  const Floats x = random_floats(5 * kN, 1, 10), last = random_floats(kN, 1, 11);
  const std::uint32_t rows[] = {4, 0, 4};
  const float w[] = {0.5f, -2, 3};
  Floats y(kN);
  ops().weighted_sum(x.data(), rows, w, 3, last.data(), kN, y.data());
  for (std::size_t i = 0; i < kN; ++i)
    EXPECT_NEAR(y[i], 3.5 * x[4 * kN + i] - 2.0 * x[i] + last[i], 1e-6);
}

TEST_P(OpsTest, SoftmaxSumsEqualTheSoftmaxOfAllRows) {
  constexpr std::size_t kN = 32, kRows = 200;
  // Logits far apart and in no order: the maximum moves up now and then.
  const Floats value = random_floats(kRows * kN, 1, 12), gate = random_floats(kRows * kN, 60, 13);
  const Floats bias = random_floats(kN, 1, 14);
  Floats max(kN), sum(kN), acc(kN), y(kN);
  const SoftmaxSums sums{max.data(), sum.data(), acc.data()};
  ops().sums_clear(sums, kN);
  for (std::size_t r = 0; r < kRows; ++r)
    ops().sums_add(sums, value.data() + r * kN, gate.data() + r * kN, bias.data(), kN);
  ops().sums_finish(sums, kN, y.data());
  for (std::size_t i = 0; i < kN; ++i) {
    double top = -1e9, total = 0, weighted = 0;
    for (std::size_t r = 0; r < kRows; ++r) top = std::max(top, double{gate[r * kN + i] + bias[i]});
    for (std::size_t r = 0; r < kRows; ++r) {
      const double weight = std::exp(double{gate[r * kN + i] + bias[i]} - top);
      total += weight;
      weighted += weight * value[r * kN + i];
    }
    EXPECT_NEAR(y[i], weighted / total, 1e-5);
  }
}

TEST_P(OpsTest, OneRowIsItsOwnSoftmax) {
  constexpr std::size_t kN = 16;
  const Floats value = random_floats(kN, 1, 15), gate(kN, -1e6f), bias(kN, 0.0f);
  Floats max(kN, 77), sum(kN, 77), acc(kN, 77), y(kN);  // cleared, whatever was there
  const SoftmaxSums sums{max.data(), sum.data(), acc.data()};
  ops().sums_clear(sums, kN);
  ops().sums_add(sums, value.data(), gate.data(), bias.data(), kN);
  ops().sums_finish(sums, kN, y.data());
  EXPECT_EQ(y, value);
}

/// The nearest of `codes` (ascending), ties to the even place.
double nearest(double x, const std::vector<double>& codes) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < codes.size(); ++i) {
    const double now = std::abs(std::abs(x) - codes[i]), then = std::abs(std::abs(x) - codes[best]);
    if (now < then || (now == then && i % 2 == 0)) best = i;
  }
  return std::copysign(codes[best], x);
}

std::vector<double> e4m3_values() {
  std::vector<double> values;
  for (int code = 0; code < 127; ++code)  // 127 is not a number
    values.push_back(code < 8 ? code * 0x1p-9 : (8 + code % 8) * std::exp2(code / 8 - 10));
  return values;
}

std::vector<double> e2m1_values() {
  return {0, .5, 1, 1.5, 2, 3, 4, 6};
}

/// Values around and exactly between codes, scaled so that `largest` codes' top is reached.
Floats tricky_values(const std::vector<double>& codes, float scale) {
  Floats x;
  for (std::size_t i = 0; i + 1 < codes.size(); ++i) {
    const auto middle = static_cast<float>((codes[i] + codes[i + 1]) / 2);
    for (const float one : {static_cast<float>(codes[i]), middle, std::nextafter(middle, 0.0f),
                            std::nextafter(middle, 1e9f)}) {
      x.push_back(one * scale);
      x.push_back(-one * scale);
    }
  }
  x.push_back(static_cast<float>(codes.back()) * scale);
  while (x.size() % 16 != 0) x.push_back(0);
  return x;
}

void expect_rounded(const Floats& x, const Floats& rounded, std::size_t block, double least,
                    const std::vector<double>& codes) {
  for (std::size_t begin = 0; begin < x.size(); begin += block) {
    const std::size_t end = std::min(x.size(), begin + block);
    double largest = least;
    for (std::size_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(double{x[i]}));
    const double scale = std::exp2(std::ceil(std::log2(largest / codes.back())));
    for (std::size_t i = begin; i < end; ++i) {
      const double wanted = largest == 0 ? 0 : nearest(x[i] / scale, codes) * scale;
      ASSERT_EQ(rounded[i], wanted) << x[i] << " in a block up to " << largest;
    }
  }
}

TEST_P(OpsTest, Fp8RoundsToTheNearestCodeTiesToEven) {
  for (const float scale : {1.0f, 0x1p-20f, 0x1p5f, 0.731f}) {
    // One block of its own for every 64 values, each with the top code in it.
    const Floats tricky = tricky_values(e4m3_values(), scale);
    Floats x;
    for (std::size_t i = 0; i < tricky.size(); ++i) {
      if (x.size() % kFp8Block == 0) x.push_back(448 * scale);
      x.push_back(tricky[i]);
    }
    x.resize((x.size() + 15) / 16 * 16);
    Floats rounded = x;
    ops().round_fp8(rounded.data(), rounded.size());
    expect_rounded(x, rounded, kFp8Block, kFp8Least, e4m3_values());
  }
}

TEST_P(OpsTest, Fp8KeepsTinyBlocksToTheirLeastScale) {
  Floats x = random_floats(64, 1e-7f, 16), rounded = x;
  ops().round_fp8(rounded.data(), rounded.size());
  expect_rounded(x, rounded, kFp8Block, kFp8Least, e4m3_values());
}

TEST_P(OpsTest, Fp8LeavesAShortLastBlock) {
  Floats x = random_floats(64 + 48, 5, 17), rounded = x;
  ops().round_fp8(rounded.data(), rounded.size());
  expect_rounded(x, rounded, kFp8Block, kFp8Least, e4m3_values());
}

TEST_P(OpsTest, Fp4RoundsToTheNearestCodeTiesToEven) {
  for (const float scale : {1.0f, 0x1p-20f, 0x1p5f, 1.37f}) {
    const Floats tricky = tricky_values(e2m1_values(), scale);
    Floats x;
    for (const float one : tricky) {
      if (x.size() % kFp4Block == 0) x.push_back(6 * scale);
      x.push_back(one);
    }
    x.resize((x.size() + 31) / 32 * 32);
    Floats rounded = x;
    ops().round_fp4(rounded.data(), rounded.size());
    expect_rounded(x, rounded, kFp4Block, 0, e2m1_values());
  }
}

TEST_P(OpsTest, Fp4OfZerosIsZero) {
  Floats x(32, 0.0f);
  ops().round_fp4(x.data(), x.size());
  EXPECT_EQ(x, Floats(32, 0.0f));
}

TEST_P(OpsTest, HadamardMatchesItsDefinition) {
  for (const std::size_t n : {std::size_t{16}, std::size_t{32}, std::size_t{128}}) {
    Floats x = random_floats(n, 1, 18);
    const Floats before = x;
    ops().hadamard(x.data(), n);
    for (std::size_t i = 0; i < n; ++i) {
      double wanted = 0;
      for (std::size_t j = 0; j < n; ++j)
        wanted += __builtin_popcountll(i & j) % 2 == 0 ? before[j] : -before[j];
      EXPECT_NEAR(x[i], wanted / std::sqrt(static_cast<double>(n)), 1e-5);
    }
  }
}

TEST_P(OpsTest, EveryFp8CodeIsDecoded) {
  std::vector<std::uint8_t> codes(256);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i);
  const std::int8_t exponents[] = {-22, 0, 100, -117};
  Floats y(256);
  ops().decode_fp8(codes.data(), exponents, 256, y.data());
  for (std::size_t i = 0; i < 256; ++i) {
    if ((i & 0x7F) == 0x7F) continue;
    const double wanted = std::ldexp(e4m3_values()[i & 0x7F], exponents[i / kFp8Block]);
    EXPECT_EQ(y[i], (i & 0x80) != 0 ? -wanted : wanted) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, OpsTest, testing::Values(Isa::kScalar, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& isa) { return std::string(to_string(isa.param)); });

}  // namespace
}  // namespace ds4::cpu
