// What text costs: bytes encoded per second, and time per sampled token at DeepSeek V4's
// vocabulary.
#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "engine/text/sampler.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/text/tokenizer_fixture.h"

namespace ds4 {
namespace {

constexpr std::uint32_t kVocabulary = 129280;
constexpr std::size_t kTextBytes = 1 << 20;

const Tokenizer& embedded_tokenizer() {
  static const Tokenizer tokenizer =
      *test::load_tokenizer(DS4_SOURCE_DIR "/packaging/models/tiny-v4-q4.gguf");
  return tokenizer;
}

std::string repeated(std::string_view unit) {
  std::string text;
  while (text.size() < kTextBytes) text += unit;
  return text;
}

void encode(benchmark::State& state, std::string_view unit) {
  const std::string text = repeated(unit);
  for (auto _ : state) benchmark::DoNotOptimize(embedded_tokenizer().encode(text, true));
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * text.size()));
}
BENCHMARK_CAPTURE(encode, prose, "What is the capital of France? It was 37 degrees, he said. ");
BENCHMARK_CAPTURE(encode, chinese, "世界上有许多国家，每个国家都有首都。");
BENCHMARK_CAPTURE(encode, one_word, "th");

void sample(benchmark::State& state, SamplingParams params) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(kVocabulary);
  for (float& logit : logits) logit = normal(random);
  Sampler sampler(kVocabulary);
  std::uint64_t position = 0;
  for (auto _ : state) benchmark::DoNotOptimize(sampler.sample(logits, params, position++));
}
BENCHMARK_CAPTURE(sample, greedy, SamplingParams{});
BENCHMARK_CAPTURE(sample, temperature, SamplingParams{.temperature = 1});
BENCHMARK_CAPTURE(sample, top_k_40, SamplingParams{.temperature = 1, .top_k = 40});
BENCHMARK_CAPTURE(sample, top_p_095, SamplingParams{.temperature = 1, .top_p = 0.95f});

}  // namespace
}  // namespace ds4

BENCHMARK_MAIN();
