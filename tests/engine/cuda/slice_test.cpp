// The CUDA slice against the reference vectors, and against itself: the rule of slice.h.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "engine/cuda/slice.h"
#include "tests/engine/cuda/plain_source.h"
#include "tests/engine/model/model_fixture.h"

namespace ds4::test {
namespace {

std::unique_ptr<Slice> gpu_slice(const std::string& model, const std::string& range, Graph graph,
                                 std::uint32_t max_rows = 512, cuda::SliceTuning tuning = {}) {
  const std::string folder = model == "q4" ? "/packaging/models/" : "/tests/models/";
  auto file = ModelFile::open(DS4_SOURCE_DIR + folder + "tiny-v4-" + model + ".gguf");
  EXPECT_TRUE(file) << file.error().message;
  if (!file) return nullptr;
  auto source = PlainSource::make(*file, *LayerRange::parse(range, kLayers), Contents::kOfFile);
  EXPECT_TRUE(source) << source.error().message;
  if (!source) return nullptr;
  CudaSliceOptions options;
  options.graph = graph;
  options.max_rows = max_rows;
  auto slice = cuda::make_slice(*source, options, tuning);
  EXPECT_TRUE(slice) << slice.error().message;
  return slice ? std::move(*slice) : nullptr;
}

struct Variant {
  const char* model;
  const char* vectors;
  Graph graph;
  double short_l2, long_l2, top1;

  friend void PrintTo(const Variant& run, std::ostream* out) { *out << run.vectors; }
};

class CudaVectors : public testing::TestWithParam<Variant> {};

std::size_t best_of(std::span<const float> logits) {
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST_P(CudaVectors, EveryCaseStaysWithinTheBarsOfTheFastPath) {
  const Variant& run = GetParam();
  const auto slice = gpu_slice(run.model, "0:output", run.graph);
  ASSERT_TRUE(slice);
  const std::size_t vocab = slice->params().n_vocab;
  for (const Case& one : read_vectors(run.vectors)) {
    SCOPED_TRACE(one.name);
    const std::vector<float> logits = run_tokens(slice, one.tokens, 512);
    ASSERT_EQ(logits.size(), one.tokens.size() * vocab);
    const double l2 = relative_l2(std::span(logits).last(vocab), one.last_logits);
    EXPECT_LE(l2, one.tokens.size() < 200 ? run.short_l2 : run.long_l2);
    std::size_t agreed = 0;
    for (std::size_t i = 0; i < one.tokens.size(); ++i)
      agreed += best_of(std::span(logits).subspan(i * vocab, vocab)) ==
                static_cast<std::size_t>(one.top_ids[4 * i]);
    const double top1 = static_cast<double>(agreed) / static_cast<double>(one.tokens.size());
    EXPECT_GE(top1, run.top1);
    std::printf("%s %s: relative L2 %.2e, top-1 %.4f\n", run.vectors, one.name.c_str(), l2, top1);
  }
}

// The bars of tests/engine/model/vectors_test.cpp.
INSTANTIATE_TEST_SUITE_P(
    All, CudaVectors,
    testing::Values(Variant{"q4", "q4.plain", Graph::kPlain, 3e-3, 3e-3, 0.99},
                    Variant{"q2", "q2.plain", Graph::kPlain, 3e-3, 3e-3, 0.99},
                    Variant{"mxfp4", "mxfp4.plain", Graph::kPlain, 3e-3, 3e-3, 0.99},
                    Variant{"q4", "q4.official", Graph::kOfficial, 3e-3, 8e-3, 0.995}));

class CudaLayers : public testing::TestWithParam<const char*> {};

/// The streams behind every layer, against the CPU's exact path: tells which layer to look at. The
/// median row, because here and there a row's last expert is another one, and then it differs.
TEST_P(CudaLayers, StreamsFollowTheExactPath) {
  const auto tokens = read_case("q4.plain", "recall1500").tokens;
  const auto input = std::span(tokens).first(300);
  for (std::uint32_t last = 0; last + 1 < kLayers; ++last) {
    const std::string range = "0:" + std::to_string(last);
    std::vector<float> streams[2];
    const std::unique_ptr<Slice> slices[] = {gpu_slice(GetParam(), range, Graph::kPlain),
                                             make_slice(GetParam(), range, exact())};
    const std::size_t width = 4 * std::size_t{slices[0]->params().n_embd};
    for (int i = 0; i < 2; ++i) {
      ASSERT_TRUE(slices[i]->open_session(1, 300));
      streams[i].resize(input.size() * width);
      const Segment segment{1, 0, input, LogitsWanted::kNone};
      const auto done = slices[i]->forward({{&segment, 1}, {}}, {streams[i], {}});
      ASSERT_TRUE(done) << done.error().message;
    }
    std::vector<double> l2;
    for (std::size_t at = 0; at < streams[0].size(); at += width)
      l2.push_back(relative_l2(std::span(streams[0]).subspan(at, width),
                               std::span(streams[1]).subspan(at, width)));
    std::nth_element(l2.begin(), l2.begin() + 150, l2.end());
    EXPECT_LE(l2[150], 2e-3) << "behind layer " << last;
    std::printf("%s behind layer %u: relative L2 of the median row %.2e\n", GetParam(), last,
                l2[150]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaLayers, testing::Values("q4", "q2", "mxfp4"));

class CudaInvariance : public testing::TestWithParam<const char*> {
 protected:
  static std::vector<std::int32_t> tokens(std::size_t first, std::size_t count) {
    const auto all = read_case("q4.plain", "recall1500").tokens;
    return {all.begin() + static_cast<std::ptrdiff_t>(first),
            all.begin() + static_cast<std::ptrdiff_t>(first + count)};
  }
};

TEST_P(CudaInvariance, AnySplitGivesTheSameLogits) {
  const auto input = tokens(0, 300);
  const auto whole = run_tokens(gpu_slice(GetParam(), "0:output", Graph::kOfficial), input, 256);
  for (std::uint32_t cut = 0; cut + 1 < kLayers; ++cut) {
    std::vector<std::unique_ptr<Slice>> stages;
    stages.push_back(gpu_slice(GetParam(), "0:" + std::to_string(cut), Graph::kOfficial));
    stages.push_back(gpu_slice(GetParam(), std::to_string(cut + 1) + ":output", Graph::kOfficial));
    EXPECT_TRUE(same_bits(run_tokens(stages, input, 256), whole)) << "cut behind layer " << cut;
  }
}

TEST_P(CudaInvariance, AnyChunkGivesTheSameLogits) {
  const auto input = tokens(0, 300);
  const auto slice = gpu_slice(GetParam(), "0:output", Graph::kOfficial);
  const auto wanted = run_tokens(slice, input, 512);
  for (const std::uint32_t chunk : {1u, 3u, 7u, 9u, 16u, 17u, 33u, 64u, 65u, 128u, 130u, 257u})
    EXPECT_TRUE(same_bits(run_tokens(slice, input, chunk), wanted)) << "chunks of " << chunk;
}

TEST_P(CudaInvariance, GraphsAndOverlapChangeNothing) {
  const auto input = tokens(0, 270);
  const auto wanted = run_tokens(gpu_slice(GetParam(), "0:output", Graph::kOfficial), input, 5);
  for (const bool overlap : {false, true}) {
    const auto other =
        gpu_slice(GetParam(), "0:output", Graph::kOfficial, 512, {false, overlap});
    EXPECT_TRUE(same_bits(run_tokens(other, input, 5), wanted)) << "overlap " << overlap;
  }
}

/// Sessions of different lengths share every call, each with its own chunk.
TEST_P(CudaInvariance, CompanionsAndForksDoNotChangeAResult) {
  struct One {
    SessionId id;
    std::vector<std::int32_t> tokens;
    std::size_t chunk;
    std::vector<float> wanted, logits;
  };
  const auto whole = gpu_slice(GetParam(), "0:output", Graph::kOfficial);
  const std::size_t vocab = whole->params().n_vocab;
  std::vector<One> sessions = {{11, tokens(0, 300), 37, {}, {}},
                               {5, tokens(200, 40), 1, {}, {}},
                               {8, tokens(400, 270), 90, {}, {}},
                               {2, tokens(700, 130), 130, {}, {}}};
  for (One& one : sessions) {
    one.wanted = run_tokens(whole, one.tokens, 512, one.id);
    ASSERT_TRUE(whole->open_session(one.id, static_cast<std::uint32_t>(one.tokens.size())));
  }
  for (int round = 0;; ++round) {
    std::vector<Segment> segments;
    std::vector<One*> of_segment;
    std::size_t rows = 0;
    for (One& one : sessions) {
      const std::size_t at = one.logits.size() / vocab;
      const std::size_t n = std::min(one.chunk, one.tokens.size() - at);
      if (n == 0) continue;
      segments.push_back({one.id, static_cast<std::uint32_t>(at),
                          std::span(one.tokens).subspan(at, n), LogitsWanted::kAll});
      of_segment.push_back(&one);
      rows += n;
    }
    if (segments.empty()) break;
    std::vector<float> logits(rows * vocab);
    const auto done = whole->forward({segments, {}}, {{}, logits});
    ASSERT_TRUE(done) << done.error().message;
    auto next = logits.begin();
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const auto end = next + static_cast<std::ptrdiff_t>(segments[i].tokens.size() * vocab);
      of_segment[i]->logits.insert(of_segment[i]->logits.end(), next, end);
      next = end;
    }
    if (round == 2) {  // goes on as a copy of itself
      const SessionId copy = sessions[0].id + 100;
      ASSERT_TRUE(whole->fork_session(sessions[0].id, copy));
      whole->close_session(sessions[0].id);
      sessions[0].id = copy;
    }
  }
  for (const One& one : sessions)
    EXPECT_TRUE(same_bits(one.logits, one.wanted)) << "session " << one.id;
}

INSTANTIATE_TEST_SUITE_P(All, CudaInvariance, testing::Values("q4", "q2", "mxfp4"));

TEST(CudaSlice, RefusesWhatTheCpuSliceRefusesAndGoesOn) {
  const auto slice = gpu_slice("q4", "0:output", Graph::kOfficial, 8);
  ASSERT_TRUE(slice);
  const std::vector<std::int32_t> tokens(9, 17), outside = {1, 1 << 30};
  std::vector<float> logits(slice->params().n_vocab);
  ASSERT_TRUE(slice->open_session(1, 16));
  EXPECT_EQ(slice->open_session(1, 16).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(slice->open_session(2, 0).error().code, ErrorCode::kOutOfRange);
  EXPECT_EQ(slice->fork_session(3, 4).error().code, ErrorCode::kNotFound);
  const auto run = [&](SessionId id, std::uint32_t position, std::span<const std::int32_t> ids) {
    const Segment segment{id, position, ids, LogitsWanted::kLast};
    return slice->forward({{&segment, 1}, {}}, {{}, logits});
  };
  EXPECT_EQ(run(7, 0, std::span(tokens).first(1)).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(run(1, 3, std::span(tokens).first(1)).error().code, ErrorCode::kMismatch);
  EXPECT_EQ(run(1, 0, tokens).error().code, ErrorCode::kOutOfRange);
  EXPECT_EQ(run(1, 0, outside).error().code, ErrorCode::kOutOfRange);
  EXPECT_TRUE(run(1, 0, std::span(tokens).first(8)));
  EXPECT_EQ(slice->position(1).value(), 8u);
  EXPECT_EQ(slice->kv_bytes(), slice->kv_bytes_for(16));
}

}  // namespace
}  // namespace ds4::test
