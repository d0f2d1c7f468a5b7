// What it costs to hand activations on as bf16: logits of a route of two stages (0:2 and 3:output)
// that does, against one that hands on float32. Prints the figures that ds4d.toml(5) has.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "agent/wire/frame.h"
#include "engine/quant/float16.h"
#include "tests/engine/model/model_fixture.h"

namespace ds4::wire {
namespace {

struct Effect {
  double max_difference = 0;  // of any logit
  std::vector<double> l2;     // |a - b| / |b| of every position
  std::size_t same_top = 0;   // positions whose highest logit is the same

  /// That so much of the positions do not exceed.
  double l2_of(double share) {
    std::sort(l2.begin(), l2.end());
    return l2[static_cast<std::size_t>(share * static_cast<double>(l2.size() - 1))];
  }
  double top_share() const {
    return static_cast<double>(same_top) / static_cast<double>(l2.size());
  }
};

/// Logits of all positions, with the streams between the stages as they arrive.
std::vector<float> run_route(const std::vector<std::unique_ptr<Slice>>& stages,
                             std::span<const std::int32_t> tokens, Activations activations) {
  const HyperParams& params = stages[0]->params();
  const auto context = static_cast<std::uint32_t>(tokens.size());
  for (const auto& stage : stages) EXPECT_TRUE(stage->open_session(1, context));
  std::vector<float> logits(tokens.size() * params.n_vocab);
  constexpr std::size_t kChunk = 64;
  for (std::size_t first = 0; first < tokens.size(); first += kChunk) {
    const auto chunk = tokens.subspan(first, std::min(kChunk, tokens.size() - first));
    const Segment segment{1, static_cast<std::uint32_t>(first), chunk, LogitsWanted::kAll};
    std::vector<float> streams(chunk.size() * params.n_streams * params.n_embd);
    EXPECT_TRUE(stages[0]->forward({{&segment, 1}, {}}, {streams, {}}));
    if (activations == Activations::kBf16) {
      const std::vector<std::uint16_t> sent = to_bf16(streams);
      std::transform(sent.begin(), sent.end(), streams.begin(), quant::bf16_to_float);
    }
    const auto out =
        std::span(logits).subspan(first * params.n_vocab, chunk.size() * params.n_vocab);
    EXPECT_TRUE(stages[1]->forward({{&segment, 1}, streams}, {{}, out}));
  }
  for (const auto& stage : stages) stage->close_session(1);
  return logits;
}

void compare(std::span<const float> narrow, std::span<const float> wide, std::size_t vocabulary,
             Effect& effect) {
  for (std::size_t at = 0; at < wide.size(); at += vocabulary) {
    const auto a = narrow.subspan(at, vocabulary);
    const auto b = wide.subspan(at, vocabulary);
    effect.l2.push_back(test::relative_l2(a, b));
    for (std::size_t i = 0; i < vocabulary; ++i) {
      effect.max_difference = std::max<double>(effect.max_difference, std::fabs(a[i] - b[i]));
    }
    effect.same_top += std::max_element(a.begin(), a.end()) - a.begin() ==
                       std::max_element(b.begin(), b.end()) - b.begin();
  }
}

struct Bar {
  Graph graph;
  const char* vectors;
  double median_l2;  // at most
  double same_top;   // share, at least
};

class Bf16Effect : public testing::TestWithParam<Bar> {};

TEST_P(Bf16Effect, IsSmallAndNotNothing) {
  const Bar& bar = GetParam();
  std::vector<std::unique_ptr<Slice>> stages;
  for (const char* layers : {"0:2", "3:output"}) {
    stages.push_back(test::make_slice("q4", layers, test::fast(bar.graph)));
    ASSERT_TRUE(stages.back());
  }
  Effect effect;
  for (const test::Case& one : test::read_vectors(bar.vectors)) {
    if (test::kIsChecked && one.tokens.size() > 200) continue;
    compare(run_route(stages, one.tokens, Activations::kBf16),
            run_route(stages, one.tokens, Activations::kFloat32), stages[0]->params().n_vocab,
            effect);
  }
  fmt::print(
      "{}: {} positions; relative L2 of the logits {:.1e} (median), {:.1e} (99 %), {:.1e} (worst); "
      "largest difference of a logit {:.2f}; same top-1 at {:.2f} %\n",
      bar.vectors, effect.l2.size(), effect.l2_of(0.5), effect.l2_of(0.99), effect.l2_of(1),
      effect.max_difference, 100 * effect.top_share());
  EXPECT_GT(effect.l2_of(0.5), 1e-5) << "nothing was rounded";
  EXPECT_LT(effect.l2_of(0.5), bar.median_l2);
  EXPECT_GE(effect.top_share(), bar.same_top);
}

INSTANTIATE_TEST_SUITE_P(Graphs, Bf16Effect,
                         testing::Values(Bar{Graph::kPlain, "q4.plain", 0.002, 0.998},
                                         Bar{Graph::kOfficial, "q4.official", 0.002, 0.998}));

}  // namespace
}  // namespace ds4::wire
