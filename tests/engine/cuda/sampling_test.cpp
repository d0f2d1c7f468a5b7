// The GPU's tokens against the sampler's, for the same logits: the same, whatever the parameters.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "engine/cuda/device_buffer.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/text/sampler.h"

namespace ds4::test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Row {
  std::vector<float> logits;
  SamplingParams params;
};

/// Samples all rows with one launch and compares each with the host's.
void expect_the_samplers_tokens(const std::vector<Row>& rows, std::uint64_t position) {
  const std::size_t vocabulary = rows[0].logits.size();
  std::vector<float> logits;
  auto draws = cuda::pinned_buffer<Draw>(rows.size(), "draws");
  auto picks = cuda::pinned_buffer<Pick>(rows.size(), "picks");
  auto device = cuda::device_buffer<float>(rows.size() * vocabulary, "logits");
  ASSERT_TRUE(draws && picks && device);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    logits.insert(logits.end(), rows[i].logits.begin(), rows[i].logits.end());
    draws->data()[i] = make_draw(rows[i].params, position + i);
    picks->data()[i] = {-2, kNan, kNan, 0};
  }
  ASSERT_EQ(cudaMemcpy(device->data(), logits.data(), logits.size() * sizeof(float),
                       cudaMemcpyHostToDevice),
            cudaSuccess);
  cuda::Launcher launcher;
  cuda::sample_rows(launcher, device->data(), static_cast<std::uint32_t>(vocabulary), draws->data(),
                    static_cast<std::uint32_t>(rows.size()), picks->data());
  ASSERT_EQ(launcher.error, cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  Sampler sampler(static_cast<std::uint32_t>(vocabulary));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const SamplingParams& params = rows[i].params;
    SCOPED_TRACE(testing::Message()
                 << "row " << i << " of " << vocabulary << " logits, temperature "
                 << params.temperature << ", top_k " << params.top_k << ", top_p " << params.top_p
                 << ", min_p " << params.min_p << ", seed " << params.seed);
    const Pick wanted = sampler.pick(rows[i].logits, draws->data()[i]);
    const Pick& found = picks->data()[i];
    EXPECT_EQ(found.token, wanted.token);
    if (wanted.token < 0) continue;
    EXPECT_EQ(found.logit, wanted.logit);
    EXPECT_EQ(found.peak, wanted.peak);
    EXPECT_EQ(found.total, wanted.total);
  }
}

class Random {
 public:
  float normal(float size) { return size * normal_(engine_); }
  template <typename T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[engine_() % values.size()];
  }
  std::uint64_t bits() { return engine_(); }

  SamplingParams params() {
    return {.temperature = one_of({0.0f, 0.2f, 0.7f, 1.0f, 1.0f, 1.5f, 30.0f, kInf}),
            .top_p = one_of({1.0f, 1.0f, 0.95f, 0.9f, 0.5f, 0.01f, 0.0f, -1.0f, 0.9999999f}),
            .min_p = one_of({0.0f, 0.0f, 0.0f, 0.05f, 0.5f, 1.0f, 2.0f, 1e-9f}),
            .top_k = one_of({0u, 0u, 0u, 1u, 2u, 40u, 1000u, 4000000000u}),
            .seed = bits()};
  }
  /// As models make them, flat, and full of ties (rounded to quarters).
  std::vector<float> logits(std::size_t vocabulary) {
    const float size = one_of({0.0f, 0.01f, 1.0f, 3.0f, 3.0f, 10.0f});
    const bool ties = bits() % 3 == 0;
    std::vector<float> logits(vocabulary);
    for (float& logit : logits) {
      logit = normal(size);
      if (ties) logit = std::round(4 * logit) / 4;
    }
    return logits;
  }

 private:
  std::mt19937_64 engine_{20250};
  std::normal_distribution<float> normal_;
};

/// Small enough for compute-sanitizer's slower tools.
TEST(CudaSampling, EveryKindOfCutInOneCall) {
  Random random;
  std::vector<Row> rows(4);
  for (Row& row : rows) row.logits = random.logits(300);
  rows[1].params = {.temperature = 1};
  rows[2].params = {.temperature = 0.8f, .top_p = 0.9f, .top_k = 20};
  rows[3].params = {.temperature = 1.2f, .min_p = 0.1f, .top_k = 7};
  expect_the_samplers_tokens(rows, 5);
}

TEST(CudaSampling, ThousandsOfDrawsAreTheSamplers) {
  Random random;
  for (int call = 0; call < 200; ++call) {
    const std::size_t vocabulary = random.one_of<std::size_t>({1, 31, 257, 4096, 5003});
    std::vector<Row> rows(1 + call % 33);
    for (Row& row : rows) row = {random.logits(vocabulary), random.params()};
    expect_the_samplers_tokens(rows, random.bits());
    if (testing::Test::HasFailure()) return;
  }
}

TEST(CudaSampling, ThoseOfAModelsWholeVocabularyToo) {
  Random random;
  for (int call = 0; call < 6; ++call) {
    std::vector<Row> rows(16);
    for (Row& row : rows) row = {random.logits(129280), random.params()};
    expect_the_samplers_tokens(rows, random.bits());
  }
}

TEST(CudaSampling, WhatIsNotFiniteIsNeverTaken) {
  Random random;
  std::vector<Row> rows;
  for (int i = 0; i < 64; ++i) {
    Row row{random.logits(1000), random.params()};
    for (float& logit : row.logits)
      if (random.bits() % 2 == 0) logit = random.one_of({kNan, -kNan, kInf, -kInf, 0.0f, -0.0f});
    rows.push_back(row);
  }
  rows.push_back({std::vector<float>(1000, kNan), {.temperature = 1}});
  rows.push_back({std::vector<float>(1000, -kInf), {}});
  expect_the_samplers_tokens(rows, 7);
}

TEST(CudaSampling, ExtremesAreTheSamplersToo) {
  std::vector<Row> rows;
  std::vector<float> wide(512, -3e38f), tiny(512, 1e-45f), near(512, 5.0f);
  wide[300] = wide[301] = 3e38f;
  for (std::size_t i = 0; i < 512; i += 3) tiny[i] = -1e-45f, near[i] = std::nextafter(5.0f, 6.0f);
  for (const auto& logits : {wide, tiny, near})
    for (const float temperature : {1e-45f, 1e-38f, 1.0f, 3e38f, kInf, kNan, -1.0f})
      for (const float top_p : {1.0f, 0.5f, 1e-30f, kNan})
        for (const std::uint32_t top_k : {0u, 3u})
          rows.push_back({logits,
                          {.temperature = temperature,
                           .top_p = top_p,
                           .min_p = top_k == 0 ? kNan : 0.3f,
                           .top_k = top_k,
                           .seed = rows.size()}});
  expect_the_samplers_tokens(rows, ~0ull - 100);
}

}  // namespace
}  // namespace ds4::test
