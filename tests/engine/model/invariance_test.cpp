// The rule of slice.h: a row's result depends on its session alone, bit for bit.
#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "tests/engine/model/model_fixture.h"

namespace ds4::test {
namespace {

/// Long enough for the indexer to leave rows out (from position 260 on), for two blocks of 128, and
/// for a chunk longer than the window.
constexpr std::size_t kTokens = 300;

struct Variant {
  const char* model;
  Graph graph;
  cpu::Precision precision;

  friend void PrintTo(const Variant& v, std::ostream* out) {
    *out << v.model << ' ' << to_string(v.graph)
         << (v.precision == cpu::Precision::kExact ? " exact" : " fast");
  }
};

class Invariance : public testing::TestWithParam<Variant> {
 protected:
  static CpuSliceOptions options() {
    CpuSliceOptions result = exact(GetParam().graph);
    result.precision = GetParam().precision;
    return result;
  }
  static std::unique_ptr<Slice> slice(const std::string& range, const CpuSliceOptions& with) {
    return make_slice(GetParam().model, range, with);
  }
  static std::vector<std::int32_t> tokens(std::size_t first = 0, std::size_t count = kTokens) {
    const auto all = read_case("q4.plain", "recall1500").tokens;
    return {all.begin() + static_cast<std::ptrdiff_t>(first),
            all.begin() + static_cast<std::ptrdiff_t>(first + count)};
  }
};

TEST_P(Invariance, AnySplitGivesTheSameLogits) {
  const auto input = tokens();
  const auto whole = run_tokens(slice("0:output", options()), input, 256);
  for (std::uint32_t cut = 0; cut + 1 < kLayers; cut += kIsChecked ? 3 : 1) {
    std::vector<std::unique_ptr<Slice>> stages;
    stages.push_back(slice("0:" + std::to_string(cut), options()));
    stages.push_back(slice(std::to_string(cut + 1) + ":output", options()));
    EXPECT_TRUE(same_bits(run_tokens(stages, input, 256), whole)) << "cut behind layer " << cut;
  }
}

TEST_P(Invariance, OneLayerAStageGivesTheSameLogits) {
  const auto input = tokens(0, 140);
  std::vector<std::unique_ptr<Slice>> stages;
  for (std::uint32_t layer = 0; layer + 1 < kLayers; ++layer)
    stages.push_back(slice(fmt::format("{}:{}", layer, layer), options()));
  stages.push_back(slice(fmt::format("{}:output", kLayers - 1), options()));
  const auto whole = run_tokens(slice("0:output", options()), input, 256);
  EXPECT_TRUE(same_bits(run_tokens(stages, input, 50), whole));
}

TEST_P(Invariance, AnyChunkGivesTheSameLogits) {
  const auto input = tokens();
  const auto whole = slice("0:output", options());
  const auto wanted = run_tokens(whole, input, 512);
  const std::vector<std::uint32_t> chunks =
      kIsChecked ? std::vector<std::uint32_t>{1, 130}
                 : std::vector<std::uint32_t>{1, 3, 7, 64, 127, 128, 130, 257, 299};
  for (const std::uint32_t chunk : chunks)
    EXPECT_TRUE(same_bits(run_tokens(whole, input, chunk), wanted)) << "chunks of " << chunk;
}

TEST_P(Invariance, AnyThreadCountGivesTheSameLogits) {
  const auto input = tokens();
  const auto wanted = run_tokens(slice("0:output", options()), input, 256);
  for (const unsigned threads : {1u, 3u}) {
    if (kIsChecked && threads == 1) continue;
    auto with = options();
    with.threads = threads;
    const auto other = slice("0:output", with);
    EXPECT_TRUE(same_bits(run_tokens(other, input, 100), wanted)) << threads << " threads";
    const auto few = std::span(input).first(265);  // single rows: cut finer among the threads
    EXPECT_TRUE(same_bits(run_tokens(other, few, 1),
                          std::span(wanted).first(few.size() * other->params().n_vocab)))
        << threads << " threads, token by token";
  }
}

/// Sessions of different lengths share every call, each with its own chunk.
TEST_P(Invariance, CompanionsDoNotChangeAResult) {
  struct Session {
    SessionId id;
    std::vector<std::int32_t> tokens;
    std::size_t chunk;
    std::vector<float> wanted, logits;
  };
  const auto whole = slice("0:output", options());
  const std::size_t vocab = whole->params().n_vocab;
  std::vector<Session> sessions = {{11, tokens(0, 300), 37, {}, {}},
                                   {5, tokens(200, 40), 1, {}, {}},
                                   {8, tokens(400, 270), 90, {}, {}},
                                   {2, tokens(700, 130), 130, {}, {}}};
  for (Session& one : sessions) {
    one.wanted = run_tokens(whole, one.tokens, 512, one.id);
    ASSERT_TRUE(whole->open_session(one.id, static_cast<std::uint32_t>(one.tokens.size())));
  }
  for (bool more = true; more;) {
    std::vector<Segment> segments;
    std::vector<Session*> of_segment;
    std::size_t rows = 0;
    for (Session& one : sessions) {
      const std::size_t at = one.logits.size() / vocab;
      const std::size_t n = std::min(one.chunk, one.tokens.size() - at);
      if (n == 0) continue;
      segments.push_back({one.id, static_cast<std::uint32_t>(at),
                          std::span(one.tokens).subspan(at, n), LogitsWanted::kAll});
      of_segment.push_back(&one);
      rows += n;
    }
    more = !segments.empty();
    if (!more) break;
    std::vector<float> logits(rows * vocab);
    ASSERT_TRUE(whole->forward({segments, {}}, {{}, logits}));
    auto next = logits.begin();
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const auto end = next + static_cast<std::ptrdiff_t>(segments[i].tokens.size() * vocab);
      of_segment[i]->logits.insert(of_segment[i]->logits.end(), next, end);
      next = end;
    }
  }
  for (const Session& one : sessions)
    EXPECT_TRUE(same_bits(one.logits, one.wanted)) << "session " << one.id;
}

TEST_P(Invariance, LogitsWantedChooseRowsOnly) {
  const auto input = tokens(0, 20);
  const auto whole = slice("0:output", options());
  const std::size_t vocab = whole->params().n_vocab;
  const auto all = run_tokens(whole, input, 20);
  ASSERT_TRUE(whole->open_session(1, 20));
  ASSERT_TRUE(whole->open_session(2, 20));
  ASSERT_TRUE(whole->open_session(3, 20));
  const Segment segments[] = {{1, 0, input, LogitsWanted::kLast},
                              {2, 0, input, LogitsWanted::kNone},
                              {3, 0, std::span(input).first(7), LogitsWanted::kLast}};
  std::vector<float> logits(2 * vocab);
  ASSERT_TRUE(whole->forward({segments, {}}, {{}, logits}));
  EXPECT_TRUE(same_bits(std::span(logits).first(vocab), std::span(all).subspan(19 * vocab, vocab)));
  EXPECT_TRUE(same_bits(std::span(logits).last(vocab), std::span(all).subspan(6 * vocab, vocab)));
}

INSTANTIATE_TEST_SUITE_P(All, Invariance,
                         testing::Values(Variant{"q4", Graph::kPlain, cpu::Precision::kExact},
                                         Variant{"q4", Graph::kOfficial, cpu::Precision::kFast},
                                         Variant{"q2", Graph::kOfficial, cpu::Precision::kFast},
                                         Variant{"mxfp4", Graph::kOfficial,
                                                 cpu::Precision::kFast}));

}  // namespace
}  // namespace ds4::test
