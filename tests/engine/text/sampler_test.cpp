#include "engine/text/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "engine/text/philox.h"

namespace ds4 {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

SampledToken sample(const std::vector<float>& logits, const SamplingParams& params,
                    std::uint64_t position = 0) {
  return Sampler(static_cast<std::uint32_t>(logits.size())).sample(logits, params, position);
}

/// How often each token comes up over `draws` positions.
std::vector<int> histogram(const std::vector<float>& logits, const SamplingParams& params,
                           int draws) {
  Sampler sampler(static_cast<std::uint32_t>(logits.size()));
  std::vector<int> counts(logits.size());
  for (int i = 0; i < draws; ++i) {
    ++counts[static_cast<std::size_t>(
        sampler.sample(logits, params, static_cast<std::uint64_t>(i)).token)];
  }
  return counts;
}

/// Pearson's statistic against the expected probabilities; tokens of probability 0 must not occur.
double chi_square(const std::vector<int>& counts, const std::vector<double>& probabilities) {
  double draws = 0;
  for (const int count : counts) draws += count;
  double sum = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double expected = probabilities[i] * draws;
    if (expected == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i << " was cut off";
    } else {
      sum += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
  }
  return sum;
}

/// Softmax at `temperature` over the tokens in `kept`.
std::vector<double> distribution(const std::vector<float>& logits, double temperature,
                                 const std::set<std::size_t>& kept) {
  std::vector<double> p(logits.size());
  double total = 0;
  for (const std::size_t i : kept) total += p[i] = std::exp(logits[i] / temperature);
  for (double& value : p) value /= total;
  return p;
}

constexpr int kDraws = 20000;
// The 99.99 % point of chi-square with 7 degrees of freedom (8 tokens at most); the seeds are
// fixed, so this passes or fails once and for all.
constexpr double kBound = 29.9;
const std::vector<float> kLogits = {0.5f, 2.0f, -1.0f, 1.5f, 0.0f, 1.0f, -2.0f, 1.75f};

TEST(Philox, GivesThePublishedTestVectors) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// Changing these breaks the promise that a replayed position gives the same token on every version.
TEST(UniformAt, GoldenValues) {
  // From the first published vector: 0xe169c58d6627e8d5 >> 11, over 2^53.
  constexpr double kUnits = 0x1p53;
  EXPECT_EQ(uniform_at(0, 0), 0xe169c58d6627e8d5u >> 11);
  EXPECT_EQ(uniform_at(1, 0), 0.8946847163350924 * kUnits);
  EXPECT_EQ(uniform_at(0, 1), 0.36209111566940344 * kUnits);
  EXPECT_EQ(uniform_at(0xFEDCBA9876543210, 0x123456789ABCDEF0), 0.3792635764023091 * kUnits);
}

TEST(UniformAt, FillsTheUnitIntervalEvenly) {
  std::vector<int> counts(8);
  for (std::uint64_t i = 0; i < kDraws; ++i) {
    const std::uint64_t u = uniform_at(42, i);
    ASSERT_LT(u, std::uint64_t{1} << 53);
    ++counts[u >> 50];
  }
  EXPECT_LT(chi_square(counts, std::vector<double>(8, 1.0 / 8)), kBound);
}

TEST(Weights, AreTheExponentialToSixDigitsAndExactAtThePeak) {
  for (const float scale : {kLog2E, 0.3f, 9.0f}) {
    EXPECT_EQ(weight_of(7.5f, 7.5f, scale), kFullWeight);
    for (float below = 1e-6f; below < 10; below *= 1.01f) {
      const double wanted = std::exp2(-double{below} * double{scale});
      const double found = static_cast<double>(weight_of(-below, 0, scale)) / kFullWeight;
      // Seven digits of y <= 40, of the series, and what is rounded down.
      EXPECT_NEAR(found / wanted, 1, 5e-6 + 0x1p-40 / wanted) << below << " * " << scale;
    }
  }
}

TEST(Weights, AreNothingFarBelowThePeakAndNeverMoreThanThePeaks) {
  EXPECT_EQ(weight_of(-40.5f, 0, 1), 0);
  EXPECT_EQ(weight_of(-kLargestFloat, kLargestFloat, kLargestFloat), 0);
  EXPECT_EQ(weight_of(-kLargestFloat, kLargestFloat, 0), kFullWeight);
  EXPECT_GT(weight_of(-39.9f, 0, 1), 0);
  for (float below = 1; below > 1e-9f; below *= 0.99f)
    EXPECT_LE(weight_of(-below, 0, 1), kFullWeight) << below;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowerIdOfEquals) {
  EXPECT_EQ(sample({1, 3, 2, 3}, {}).token, 1);
  EXPECT_EQ(sample({-5, -3, -4}, {}).token, 1);
  EXPECT_EQ(sample({1, 2}, {.temperature = -1}).token, 1);
  EXPECT_EQ(sample({1, 2}, {.temperature = kNan}).token, 1);
}

TEST(Sampler, LogprobIsTheUntruncatedSoftmaxAtTemperatureOne) {
  const double total = std::exp(1.0) + std::exp(2.0) + std::exp(3.0);
  EXPECT_NEAR(sample({1, 2, 3}, {}).logprob, std::log(std::exp(3.0) / total), 1e-6);
  const SamplingParams odd = {.temperature = 5, .top_k = 1};
  EXPECT_NEAR(sample({1, 2, 3}, odd).logprob, std::log(std::exp(3.0) / total), 1e-6);
  // Large logits must not overflow on the way.
  EXPECT_NEAR(sample({1000, 1000}, {}).logprob, std::log(0.5), 1e-6);
  EXPECT_NEAR(sample({-3e38f, 3e38f}, {}).logprob, 0.0, 1e-6);
}

TEST(Sampler, NeverChoosesWhatIsNotFinite) {
  const std::vector<float> logits = {kNan, 1, kInf, 0, -kInf, -kNan};
  EXPECT_EQ(sample(logits, {}).token, 1);
  EXPECT_NEAR(sample(logits, {}).logprob, -std::log(1 + std::exp(-1.0)), 1e-6);
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 1}, SamplingParams{.temperature = 1, .top_k = 5},
        SamplingParams{.temperature = 1, .top_p = 0.999f},
        SamplingParams{.temperature = 1, .min_p = 0.01f}}) {
    const std::vector<int> counts = histogram(logits, params, 500);
    EXPECT_GT(counts[1], 0);
    EXPECT_GT(counts[3], 0);
    EXPECT_EQ(counts[1] + counts[3], 500);
  }
}

TEST(Sampler, WithoutAnyFiniteLogitSaysSo) {
  for (const float temperature : {0.0f, 1.0f}) {
    const SampledToken sampled = sample({kNan, kInf, -kInf}, {.temperature = temperature});
    EXPECT_EQ(sampled.token, 0);
    EXPECT_TRUE(std::isnan(sampled.logprob));
  }
}

TEST(Sampler, FollowsTheDistribution) {
  const std::set<std::size_t> all = {0, 1, 2, 3, 4, 5, 6, 7};
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    const auto counts = histogram(kLogits, {.temperature = temperature, .seed = 9}, kDraws);
    EXPECT_LT(chi_square(counts, distribution(kLogits, temperature, all)), kBound) << temperature;
  }
}

TEST(Sampler, TopKKeepsTheLikeliest) {
  const auto counts = histogram(kLogits, {.temperature = 1, .top_k = 3, .seed = 9}, kDraws);
  EXPECT_LT(chi_square(counts, distribution(kLogits, 1, {1, 3, 7})), kBound);
}

TEST(Sampler, TopKBreaksTiesTowardsTheLowerId) {
  const auto counts = histogram({1, 2, 1, 1, 1}, {.temperature = 1, .top_k = 3}, 2000);
  EXPECT_EQ(counts[3] + counts[4], 0);
  EXPECT_GT(counts[0], 0);
  EXPECT_GT(counts[2], 0);
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  // At temperature 1 tokens 1, 7, 3, 5 hold 0.31, 0.24, 0.19, 0.11 of the mass.
  const auto counts = histogram(kLogits, {.temperature = 1, .top_p = 0.7f, .seed = 9}, kDraws);
  EXPECT_LT(chi_square(counts, distribution(kLogits, 1, {1, 7, 3})), kBound);
  const auto one = histogram(kLogits, {.temperature = 1, .top_p = 0.0f}, 100);
  EXPECT_EQ(one[1], 100);
}

TEST(Sampler, TopPCountsWhatTopKLeft) {
  // Of the mass of tokens 1 and 7 alone, token 1 holds 0.56.
  const auto counts = histogram(kLogits, {.temperature = 1, .top_p = 0.55f, .top_k = 2}, 200);
  EXPECT_EQ(counts[1], 200);
}

TEST(Sampler, MinPIsRelativeToTheLikeliest) {
  // exp(1.5 - 2) = 0.61 stays, exp(1 - 2) = 0.37 goes.
  const auto counts = histogram(kLogits, {.temperature = 1, .min_p = 0.5f, .seed = 9}, kDraws);
  EXPECT_LT(chi_square(counts, distribution(kLogits, 1, {1, 3, 7})), kBound);
  const auto one = histogram(kLogits, {.temperature = 1, .min_p = 7.0f}, 100);
  EXPECT_EQ(one[1], 100);
}

TEST(Sampler, TopPOverManyEqualTokensKeepsTheLowestIds) {
  // 1000 equal tokens: more than one step of the partial sort.
  const std::vector<float> logits(1000, 0.25f);
  const auto counts = histogram(logits, {.temperature = 1, .top_p = 0.5f}, kDraws);
  for (std::size_t i = 500; i < 1000; ++i) EXPECT_EQ(counts[i], 0) << i;
  EXPECT_LT(chi_square(counts, distribution(logits, 1,
                                            [] {
                                              std::set<std::size_t> kept;
                                              for (std::size_t i = 0; i < 500; ++i) kept.insert(i);
                                              return kept;
                                            }())),
            620);  // 99.99 % point at 499 degrees of freedom is 625
}

TEST(Sampler, SurvivesExtremeTemperatures) {
  EXPECT_EQ(sample({1, 2, 1.9f}, {.temperature = 1e-38f}).token, 1);
  EXPECT_EQ(sample({-3e38f, 3e38f}, {.temperature = 1e-38f}).token, 1);
  const auto counts = histogram(kLogits, {.temperature = kInf}, kDraws);
  EXPECT_LT(chi_square(counts, std::vector<double>(8, 1.0 / 8)), kBound);
}

TEST(Sampler, SameSeedAndPositionGiveTheSameTokenWhateverCameBefore) {
  const SamplingParams params = {.temperature = 1, .top_p = 0.95f, .seed = 77};
  Sampler forward(8);
  Sampler backward(8);
  std::map<std::uint64_t, std::int32_t> tokens;
  for (std::uint64_t i = 0; i < 100; ++i) tokens[i] = forward.sample(kLogits, params, i).token;
  for (std::uint64_t i = 100; i-- > 0;) {
    EXPECT_EQ(backward.sample(kLogits, params, i).token, tokens[i]);
  }
}

TEST(Sampler, SeedAndPositionBothMatter) {
  const auto draw = [](std::uint64_t seed, std::uint64_t first) {
    std::vector<std::int32_t> tokens;
    Sampler sampler(8);
    for (std::uint64_t i = 0; i < 50; ++i) {
      tokens.push_back(sampler.sample(kLogits, {.temperature = 1, .seed = seed}, first + i).token);
    }
    return tokens;
  };
  EXPECT_NE(draw(1, 0), draw(2, 0));
  EXPECT_NE(draw(1, 0), draw(1, 1u << 20));
  EXPECT_NE(draw(1, 0), draw(1, std::uint64_t{1} << 32));
}

}  // namespace
}  // namespace ds4
