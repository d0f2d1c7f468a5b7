// Tokens in place of logits: those that the sampler gives for the logits.
#include <array>

#include "tests/engine/model/model_fixture.h"

namespace ds4::test {
namespace {

constexpr SamplingParams kParams[] = {
    {}, {.temperature = 1.3f, .seed = 5}, {.temperature = 0.8f, .top_p = 0.9f, .top_k = 40}};

/// Three sessions in one call: all rows of one, the last row of another, none of the third.
struct Call {
  std::vector<std::int32_t> tokens = read_case("q4.plain", "recall1500").tokens;
  std::array<Segment, 3> segments;

  explicit Call(Slice& slice) {
    const std::span<const std::int32_t> all = tokens;
    segments = {Segment{1, 0, all.first(21), LogitsWanted::kAll, kParams[1]},
                Segment{2, 0, all.subspan(30, 5), LogitsWanted::kNone, kParams[0]},
                Segment{3, 0, all.subspan(50, 9), LogitsWanted::kLast, kParams[2]}};
    for (const SessionId id : {1, 2, 3}) EXPECT_TRUE(slice.open_session(id, 32));
  }
  static constexpr std::size_t kWanted = 22;  // more than have logits at the same time
};

TEST(SliceSampling, GivesWhatTheSamplerGivesForTheLogits) {
  const auto with_logits = make_slice("q4", "0:output", fast());
  const auto with_tokens = make_slice("q4", "0:output", fast());
  ASSERT_TRUE(with_logits && with_tokens);
  const std::size_t vocab = with_logits->params().n_vocab;
  std::vector<float> logits(Call::kWanted * vocab);
  std::vector<SampledToken> tokens(Call::kWanted);
  ASSERT_TRUE(with_logits->forward({Call(*with_logits).segments, {}}, {{}, logits}));
  ASSERT_TRUE(with_tokens->forward({Call(*with_tokens).segments, {}}, {{}, {}, tokens}));
  Sampler sampler(static_cast<std::uint32_t>(vocab));
  for (std::uint32_t i = 0; i < Call::kWanted; ++i) {
    const bool of_first = i < 21;
    const SampledToken wanted = sampler.sample(std::span(logits).subspan(i * vocab, vocab),
                                               kParams[of_first ? 1 : 2], of_first ? i + 1 : 9);
    EXPECT_EQ(tokens[i].token, wanted.token) << i;
    EXPECT_EQ(tokens[i].logprob, wanted.logprob) << i;
  }
}

TEST(SliceSampling, RefusesSizesThatDoNotFitAndBothAtOnce) {
  const auto slice = make_slice("q4", "0:output", fast());
  ASSERT_TRUE(slice);
  const Call call(*slice);
  std::vector<float> logits(Call::kWanted * slice->params().n_vocab);
  std::vector<SampledToken> tokens(Call::kWanted);
  const auto run = [&](const SliceOutput& output) {
    return slice->forward({call.segments, {}}, output);
  };
  EXPECT_EQ(run({{}, {}, std::span(tokens).first(1)}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(run({{}, logits, tokens}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(run({}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(run({{}, {}, tokens}));
}

TEST(SliceSampling, ASliceWithoutTheOutputHeadSamplesNothing) {
  const auto slice = make_slice("q4", "0:2", fast());
  ASSERT_TRUE(slice);
  const Call call(*slice);
  std::vector<float> streams(std::size_t{35} * 4 * slice->params().n_embd);
  std::vector<SampledToken> tokens(Call::kWanted);
  EXPECT_FALSE(slice->forward({call.segments, {}}, {streams, {}, tokens}));
  EXPECT_TRUE(slice->forward({call.segments, {}}, {streams, {}}));
}

}  // namespace
}  // namespace ds4::test
