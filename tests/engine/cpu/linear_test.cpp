#include "engine/cpu/linear.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>

#include "engine/cpu/kernels.h"
#include "engine/quant/quant.h"
#include "tests/engine/cpu/weights_fixture.h"

namespace ds4::cpu {
namespace {

constexpr Isa kAllIsas[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512};

std::string name_of(TensorType type) {
  return std::string(traits_of(type)->name);
}

std::vector<float> multiply(const Matrix& weights, const std::vector<float>& x, std::uint32_t n,
                            Isa isa, Precision precision, unsigned threads = 1,
                            const std::vector<std::uint32_t>& x_rows = {}) {
  ThreadPool pool(threads);
  Activations rows(n, weights.cols, precision);
  rows.prepare(pool, isa, x.data(), n, weights.cols, weights.cols);
  const std::size_t n_out = x_rows.empty() ? n : x_rows.size();
  std::vector<float> y(n_out * weights.rows, -1.0f);
  const Product product{weights, &rows, x_rows, y.data(), weights.rows};
  run_products(pool, isa, precision, std::span(&product, 1));
  return y;
}

// What the products of fast precision see instead of x.
std::vector<float> round_to_groups(const std::vector<float>& x) {
  std::vector<float> out(x.size());
  for (std::size_t first = 0; first < x.size(); first += kGroup) {
    float largest = 0;
    for (std::size_t i = 0; i < kGroup; ++i) largest = std::max(largest, std::fabs(x[first + i]));
    const float scale = largest / kLargestQ, inverse = largest == 0 ? 0 : kLargestQ / largest;
    for (std::size_t i = first; i < first + kGroup; ++i)
      out[i] = scale * static_cast<float>(std::lrint(x[i] * inverse));
  }
  return out;
}

class Products : public testing::TestWithParam<std::tuple<TensorType, Isa>> {
 protected:
  void SetUp() override {
    if (!is_supported(isa())) GTEST_SKIP() << to_string(isa()) << " is not supported here";
  }
  TensorType type() const { return std::get<0>(GetParam()); }
  Isa isa() const { return std::get<1>(GetParam()); }
  bool is_block_type() const { return quant::block_values(type()) > 1; }

  // Against sums in double. The tolerance is that of float sums, relative to the terms' magnitude.
  void expect_close(const TestMatrix& weights, const std::vector<float>& x, std::uint32_t n,
                    Precision precision) {
    const std::uint32_t rows = weights.matrix.rows, cols = weights.matrix.cols;
    const std::vector<float> y = multiply(weights.matrix, x, n, isa(), precision);
    const bool is_rounded = precision == Precision::kFast && is_block_type();
    const std::vector<float> seen = is_rounded ? round_to_groups(x) : x;
    for (std::uint32_t r = 0; r < rows; ++r) {
      const std::vector<float> w = weights.row(r), magnitude = weights.row_magnitude(r);
      for (std::uint32_t i = 0; i < n; ++i) {
        double sum = 0, terms = 0;
        for (std::uint32_t c = 0; c < cols; ++c) {
          sum += double{w[c]} * seen[i * cols + c];
          terms += std::fabs(double{magnitude[c]} * seen[i * cols + c]);
        }
        // 1e-36: where scales are subnormal, so are the products.
        ASSERT_NEAR(y[i * rows + r], sum, terms * 1e-6 + 1e-36)
            << name_of(type()) << " row " << r << " of " << rows << ", activation " << i << " of "
            << n;
      }
    }
  }
};

TEST_P(Products, MatchTheDecoderOnTameBlocks) {
  for (const std::uint32_t cols : {256u, 512u, 1280u}) {
    const TestMatrix weights(type(), 37, cols, Contents::kTame, cols);
    for (const Precision precision : {Precision::kExact, Precision::kFast})
      expect_close(weights, random_floats(3 * cols, 7), 3, precision);
  }
}

TEST_P(Products, MatchTheDecoderOnAdversarialBlocks) {
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    const TestMatrix weights(type(), 16, 512, Contents::kAdversarial, seed);
    for (const std::uint32_t n : {1u, 5u}) {
      for (const Precision precision : {Precision::kExact, Precision::kFast})
        expect_close(weights, random_floats(n * 512, seed), n, precision);
    }
    const std::vector<float> ends(512, seed % 2 == 0 ? 1.0f : -1.0f);  // the largest integer sums
    expect_close(weights, ends, 1, Precision::kFast);
  }
}

TEST_P(Products, MatchTheDecoderWithExtremeActivations) {
  const TestMatrix weights(type(), 9, 256, Contents::kTame, 1);
  std::vector<float> x(6 * 256, 0.0f);           // row 0: zero
  for (int i = 0; i < 256; ++i) x[256 + i] = 1;  // row 1: every value at the end of its range
  for (int i = 0; i < 256; ++i) x[512 + i] = -1e30f;
  for (int i = 0; i < 256; ++i) x[768 + i] = i % 32 == 5 ? 1e20f : 1.0f;
  for (int i = 0; i < 256; ++i) x[1024 + i] = i == 200 ? -3.0f : 0.0f;
  for (int i = 0; i < 256; ++i) x[1280 + i] = i % 2 == 0 ? 1e-30f : -1e-30f;
  for (const Precision precision : {Precision::kExact, Precision::kFast})
    expect_close(weights, x, 6, precision);
}

// Half a step of every value, as if all errors added up, and the rounding of float sums.
TEST_P(Products, OfFastPrecisionAreWithinHalfAStepOfTheActivations) {
  if (!is_block_type()) GTEST_SKIP() << "meets float activations";
  const std::uint32_t cols = 512, n = 5;
  const TestMatrix weights(type(), 24, cols, Contents::kTame, 9);
  const std::vector<float> x = random_floats(n * cols, 14);
  const std::vector<float> y = multiply(weights.matrix, x, n, isa(), Precision::kFast);
  for (std::uint32_t r = 0; r < 24; ++r) {
    const std::vector<float> w = weights.row(r), magnitude = weights.row_magnitude(r);
    for (std::uint32_t i = 0; i < n; ++i) {
      double sum = 0, bound = 0;
      for (std::uint32_t first = 0; first < cols; first += kGroup) {
        double largest = 0, weight = 0;
        for (std::uint32_t c = first; c < first + kGroup; ++c) {
          const double value = x[i * cols + c];
          largest = std::max(largest, std::fabs(value));
          weight += std::fabs(double{w[c]});
          sum += w[c] * value;
          bound += std::fabs(magnitude[c] * value) * 1e-6;
        }
        bound += weight * largest / (2 * kLargestQ) * 1.01;  // 1.01: x / scale is itself rounded
      }
      ASSERT_NEAR(y[i * 24 + r], sum, bound) << name_of(type()) << " row " << r << ", " << i;
    }
  }
}

TEST_P(Products, AcceptRowsOfOneBlockAndOddNumbersOfRows) {
  const std::uint32_t block = quant::block_values(type());
  for (const std::uint32_t cols : {block, 3 * block}) {
    for (const std::uint32_t rows : {1u, 2u, 7u, 8u, 9u, 15u, 17u, 33u}) {
      const TestMatrix weights(type(), rows, cols, Contents::kTame, rows);
      for (const std::uint32_t n : {1u, 2u, 9u})
        expect_close(weights, random_floats(n * cols, 3), n, Precision::kFast);
      expect_close(weights, random_floats(4 * cols, 3), 4, Precision::kExact);
    }
  }
}

TEST_P(Products, AcceptColumnsThatDoNotFillAVector) {
  if (is_block_type()) GTEST_SKIP() << "blocks decide";
  for (std::uint32_t cols = 1; cols < 70; cols += 3) {
    const TestMatrix weights(type(), 5, cols, Contents::kTame, cols);
    expect_close(weights, random_floats(7 * cols, 3), 7, Precision::kFast);
  }
}

TEST_P(Products, OfOneRowAreBitIdenticalToBatchedOnes) {
  const std::uint32_t cols = 1536;
  const TestMatrix weights(type(), 43, cols, Contents::kTame, 5);
  for (const Precision precision : {Precision::kExact, Precision::kFast}) {
    const std::vector<float> x = random_floats(17 * cols, 11);
    std::vector<float> alone;
    for (std::uint32_t i = 0; i < 17; ++i) {
      const std::vector<float> row(x.begin() + i * cols, x.begin() + (i + 1) * cols);
      const std::vector<float> y = multiply(weights.matrix, row, 1, isa(), precision);
      alone.insert(alone.end(), y.begin(), y.end());
    }
    for (std::uint32_t n = 2; n <= 17; ++n) {
      const std::vector<float> y = multiply(weights.matrix, x, n, isa(), precision);
      ASSERT_EQ(std::memcmp(y.data(), alone.data(), y.size() * sizeof(float)), 0) << n << " rows";
    }
  }
}

TEST_P(Products, DoNotDependOnTheNumberOfThreads) {
  const std::uint32_t cols = 512, n = 70;
  const TestMatrix weights(type(), 530, cols, Contents::kTame, 6);
  const std::vector<float> x = random_floats(n * cols, 12);
  for (const Precision precision : {Precision::kExact, Precision::kFast}) {
    for (const std::uint32_t rows : {1u, n}) {
      const auto one = multiply(weights.matrix, x, rows, isa(), precision, 1);
      EXPECT_EQ(multiply(weights.matrix, x, rows, isa(), precision, 2), one);
      EXPECT_EQ(multiply(weights.matrix, x, rows, isa(), precision, 3), one);
    }
  }
}

TEST_P(Products, TakeTheActivationRowsTheyAreGiven) {
  const std::uint32_t cols = 256, n = 9;
  const TestMatrix weights(type(), 21, cols, Contents::kTame, 8);
  const std::vector<float> x = random_floats(n * cols, 13);
  const std::vector<std::uint32_t> x_rows = {8, 0, 3, 3, 7, 8, 1, 0, 5, 4, 2};
  for (const Precision precision : {Precision::kExact, Precision::kFast}) {
    const auto all = multiply(weights.matrix, x, n, isa(), precision);
    for (std::size_t count = 1; count <= x_rows.size(); ++count) {
      const std::vector<std::uint32_t> some(x_rows.begin(),
                                            x_rows.begin() + static_cast<long>(count));
      const auto y = multiply(weights.matrix, x, n, isa(), precision, 2, some);
      for (std::size_t i = 0; i < count; ++i) {
        ASSERT_EQ(std::memcmp(&y[i * 21], &all[some[i] * 21], 21 * sizeof(float)), 0)
            << "entry " << i << " of " << count;
      }
    }
  }
}

TEST_P(Products, SurviveBytesThatNoQuantiserWrote) {
  for (std::uint32_t seed = 0; seed < 8; ++seed) {
    const TestMatrix weights(type(), 19, 512, Contents::kHostile, seed);
    const std::vector<float> x = random_floats(6 * 512, seed);
    for (const Precision precision : {Precision::kExact, Precision::kFast}) {
      for (const std::uint32_t n : {1u, 6u})
        EXPECT_EQ(multiply(weights.matrix, x, n, isa(), precision).size(), n * 19);
    }
  }
}

TEST_P(Products, OfNonFiniteActivationsAreNotFinite) {
  const TestMatrix weights(type(), 9, 512, Contents::kTame, 2);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    for (const std::uint32_t n : {1u, 8u}) {
      std::vector<float> x = random_floats(n * 512, 3);
      x[300] = bad;
      for (const Precision precision : {Precision::kExact, Precision::kFast}) {
        const auto y = multiply(weights.matrix, x, n, isa(), precision);
        for (int r = 0; r < 9; ++r) EXPECT_FALSE(std::isfinite(y[r])) << r;
        if (n > 1) {
          EXPECT_TRUE(std::isfinite(y[9]));
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllFormats, Products,
                         testing::Combine(testing::ValuesIn(kAllTypes),
                                          testing::ValuesIn(kAllIsas)),
                         [](const auto& param) {
                           return name_of(std::get<0>(param.param)) + "_" +
                                  std::string(to_string(std::get<1>(param.param)));
                         });

TEST(QuantizedRows, AreTheSameForEveryInstructionSet) {
  const std::uint32_t cols = 512;
  std::vector<float> x = random_floats(cols, 21);
  x[5] = 1e30f;
  x[70] = 1e-38f;
  for (int i = 96; i < 128; ++i) x[i] = static_cast<float>(i) * 1e-39f;
  for (int i = 128; i < 160; ++i) x[i] = 0;
  for (int i = 160; i < 192; ++i) x[i] = static_cast<float>(i - 176) + 0.5f;  // ties
  for (int i = 192; i < 224; ++i)  // with a step of one, both sides of where the high byte changes
    x[i] = static_cast<float>((i - 208) * 2 * kHighUnit + 127 + i % 2);
  x[192] = kLargestQ;
  x[300] = std::numeric_limits<float>::infinity();
  const auto record_of = [&](const Kernels& kernels) {
    std::vector<std::byte> record(cols / kGroup * (kGroupBytes + sizeof(GroupInfo)));
    kernels.quantize_row(x.data(), cols, record.data());
    return record;
  };
  const auto scalar = record_of(kScalarKernels);
  (void)scalar;
#if defined(DS4_X86_KERNELS)
  if (is_supported(Isa::kAvx2)) {
    EXPECT_EQ(record_of(kAvx2Kernels), scalar);
  }
  if (is_supported(Isa::kAvx512)) {
    EXPECT_EQ(record_of(kAvx512Kernels), scalar);
  }
#endif
}

TEST(QuantizedRows, KeepEveryValueToHalfAStep) {
  const std::uint32_t cols = 256;
  const std::vector<float> x = random_floats(cols, 22);
  std::vector<std::byte> record(cols / kGroup * (kGroupBytes + sizeof(GroupInfo)));
  kScalarKernels.quantize_row(x.data(), cols, record.data());
  for (std::uint32_t group = 0; group < cols / kGroup; ++group) {
    GroupInfo info;
    const std::byte* high = record.data() + group * kGroupBytes;
    const std::byte* infos = record.data() + cols / kGroup * kGroupBytes;
    std::memcpy(&info, infos + group * sizeof info, sizeof info);
    int sums[2] = {}, largest = 0;
    for (std::uint32_t i = 0; i < kGroup; ++i) {
      const int bytes[2] = {static_cast<std::int8_t>(high[i]),
                            static_cast<std::int8_t>(high[kGroup + i])};
      const int q = kHighUnit * bytes[0] + bytes[1];
      EXPECT_GE(std::min(bytes[0], bytes[1]), -127) << "kernels cannot negate -128";
      largest = std::max(largest, std::abs(q));
      sums[i / 16] += q;
      // Near the largest value, floats are 1/256 of a step apart: scale, quotient and product.
      EXPECT_NEAR(info.scale * static_cast<float>(q), x[group * kGroup + i], info.scale * 0.51f);
    }
    EXPECT_EQ(largest, kLargestQ) << "the range is used in full";
    EXPECT_EQ(info.sum, sums[0] + sums[1]);
    EXPECT_FLOAT_EQ(info.scaled_sum, info.scale * static_cast<float>(info.sum));
    EXPECT_FLOAT_EQ(info.scaled_half[0], info.scale * static_cast<float>(sums[0]));
    EXPECT_FLOAT_EQ(info.scaled_half[1], info.scale * static_cast<float>(sums[1]));
  }
}

TEST(RunProducts, DoesManyMatricesOfManyShapesInOneCall) {
  ThreadPool pool(3);
  const Isa isa = choose_isa();
  const std::vector<float> x = random_floats(40 * 512, 31);
  Activations rows(40, 512, Precision::kFast), halves(40, 256, Precision::kFast);
  rows.prepare(pool, isa, x.data(), 40, 512, 512);
  halves.prepare(pool, isa, x.data() + 100, 40, 256, 512);
  const TestMatrix a(TensorType::kQ4_K, 33, 512, Contents::kTame, 1);
  const TestMatrix b(TensorType::kF16, 5, 512, Contents::kTame, 2);
  const TestMatrix c(TensorType::kQ8_0, 700, 256, Contents::kTame, 3);
  const std::vector<std::uint32_t> none, some = {39, 2};
  std::vector<float> ya(40 * 33), yb(2 * 8, -1.0f), yc(40 * 700);
  const Product products[] = {{a.matrix, &rows, {}, ya.data(), 33},
                              {b.matrix, &rows, some, yb.data(), 8},
                              {c.matrix, &halves, {}, yc.data(), 700}};
  run_products(pool, isa, Precision::kFast, products);
  EXPECT_EQ(ya, multiply(a.matrix, x, 40, isa, Precision::kFast));
  const auto full = multiply(b.matrix, x, 40, isa, Precision::kFast);
  for (int r = 0; r < 5; ++r) {
    EXPECT_EQ(yb[r], full[39 * 5 + r]);
    EXPECT_EQ(yb[8 + r], full[2 * 5 + r]);
  }
  for (int i = 0; i < 2; ++i)
    for (int r = 5; r < 8; ++r) EXPECT_EQ(yb[8 * i + r], -1.0f) << "written outside its columns";
  std::vector<float> packed(40 * 256);
  for (int i = 0; i < 40; ++i) std::copy_n(x.data() + 100 + i * 512, 256, packed.data() + i * 256);
  EXPECT_EQ(yc, multiply(c.matrix, packed, 40, isa, Precision::kFast));
}

TEST(RunProducts, AcceptsAnEmptyList) {
  ThreadPool pool(2);
  run_products(pool, choose_isa(), Precision::kFast, {});
}

TEST(RunProducts, AcceptsRowRanges) {
  const TestMatrix weights(TensorType::kQ8_0, 64, 256, Contents::kTame, 4);
  const std::vector<float> x = random_floats(256, 5);
  const auto all = multiply(weights.matrix, x, 1, choose_isa(), Precision::kFast);
  const auto part =
      multiply(weights.matrix.row_range(13, 20), x, 1, choose_isa(), Precision::kFast);
  EXPECT_EQ(part, std::vector<float>(all.begin() + 13, all.begin() + 33));
}

TEST(Activations, CanBePreparedForOtherShapesOfTheSameSize) {
  ThreadPool pool(1);
  const Isa isa = choose_isa();
  Activations rows(4, 256, Precision::kFast);
  for (const std::uint32_t cols : {1024u, 32u, 96u, 256u}) {
    const TestMatrix weights(TensorType::kQ8_0, 10, cols, Contents::kTame, cols);
    const std::uint32_t n = 1024 / cols;
    const std::vector<float> x = random_floats(n * cols, cols);
    rows.prepare(pool, isa, x.data(), n, cols, cols);
    std::vector<float> y(n * 10);
    const Product product{weights.matrix, &rows, {}, y.data(), 10};
    run_products(pool, isa, Precision::kFast, std::span(&product, 1));
    EXPECT_EQ(y, multiply(weights.matrix, x, n, isa, Precision::kFast));
  }
}

TEST(Isa, NamesRoundTrip) {
  for (const Isa isa : kAllIsas) EXPECT_EQ(parse_isa(to_string(isa)), isa);
  EXPECT_EQ(parse_isa("sse9"), std::nullopt);
}

TEST(Isa, IsChosenByTheEnvironmentIfTheMachineHasIt) {
  setenv("DS4_ISA", "scalar", 1);
  EXPECT_EQ(choose_isa(), Isa::kScalar);
  setenv("DS4_ISA", "nonsense", 1);
  EXPECT_TRUE(is_supported(choose_isa()));
  unsetenv("DS4_ISA");
  EXPECT_TRUE(is_supported(choose_isa()));
}

}  // namespace
}  // namespace ds4::cpu
