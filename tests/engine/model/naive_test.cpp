// The engine against the naive model, on sizes that no published file has: nothing may be fitted to
// the embedded models.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "engine/gguf/model_file.h"
#include "engine/model/cpu_slice.h"
#include "tests/engine/gguf/temp_file.h"
#include "tests/engine/model/micro_model.h"
#include "tests/engine/model/naive_model.h"

namespace ds4::test {
namespace {

/// Long enough for a block of 128 and a few tokens that see it.
constexpr std::size_t kTokens = 140;

std::vector<std::int32_t> some_tokens() {
  std::vector<std::int32_t> tokens;
  for (std::size_t i = 0; i < kTokens; ++i)
    tokens.push_back(static_cast<std::int32_t>((i * i * 7 + i * 3) % 40));
  return tokens;
}

class MicroSlice {
 public:
  MicroSlice(const std::vector<std::byte>& file, const CpuSliceOptions& options) {
    const TempDir dir;
    const auto model = ModelFile::open(dir.write("micro.gguf", file)).value();
    LoadOptions load;
    load.lock = false;
    const LayerRange all{0, 4, true};
    slice_ = make_cpu_slice(ResidentSlice::load(model, all, load).value(), options).value();
  }

  /// Logits of all positions, computed `chunk` tokens at a time.
  std::vector<float> run(const std::vector<std::int32_t>& tokens, std::size_t chunk) {
    const std::size_t vocab = slice_->params().n_vocab;
    std::vector<float> logits(tokens.size() * vocab);
    EXPECT_TRUE(slice_->open_session(1, static_cast<std::uint32_t>(tokens.size())));
    for (std::size_t at = 0; at < tokens.size(); at += chunk) {
      const std::size_t n = std::min(chunk, tokens.size() - at);
      const Segment segment{1, static_cast<std::uint32_t>(at), std::span(tokens).subspan(at, n),
                            LogitsWanted::kAll};
      const auto out = std::span(logits).subspan(at * vocab, n * vocab);
      EXPECT_TRUE(slice_->forward({{&segment, 1}, {}}, {{}, out}));
    }
    slice_->close_session(1);
    return logits;
  }

 private:
  std::unique_ptr<Slice> slice_;
};

CpuSliceOptions options(Graph graph, cpu::Isa isa) {
  CpuSliceOptions result;
  result.graph = graph;
  result.precision = cpu::Precision::kExact;
  result.isa = isa;
  result.threads = 2;
  result.max_rows = kTokens;
  return result;
}

/// |a - b| / |b| of the rows [first, last).
double relative_l2(const std::vector<float>& a, const std::vector<float>& b, std::size_t first,
                   std::size_t last) {
  const std::size_t vocab = a.size() / kTokens;
  double difference = 0, size = 0;
  for (std::size_t i = first * vocab; i < last * vocab; ++i) {
    difference += std::pow(double{a[i]} - double{b[i]}, 2);
    size += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(difference / size);
}

class Naive : public testing::TestWithParam<cpu::Isa> {
 protected:
  void SetUp() override {
    if (!cpu::is_supported(GetParam())) GTEST_SKIP() << "not on this machine";
  }
};

TEST_P(Naive, ThePlainGraphIsTheSame) {
  const auto file = micro_model();
  const auto tokens = some_tokens();
  const auto wanted = NaiveModel(file).logits(tokens, Graph::kPlain);
  MicroSlice slice(file, options(Graph::kPlain, GetParam()));
  const auto found = slice.run(tokens, 33);
  ASSERT_EQ(found.size(), wanted.size());
  // Float against double.
  for (std::size_t p = 0; p < kTokens; ++p)
    ASSERT_LE(relative_l2(found, wanted, p, p + 1), 1e-4) << "position " << p;
}

TEST_P(Naive, TheOfficialGraphIsTheSame) {
  const auto file = micro_model();
  const auto tokens = some_tokens();
  const auto wanted = NaiveModel(file).logits(tokens, Graph::kOfficial);
  MicroSlice slice(file, options(Graph::kOfficial, GetParam()));
  const auto found = slice.run(tokens, 33);
  ASSERT_EQ(found.size(), wanted.size());
  // A value beside the middle of two codes may fall to either side, but most positions see none.
  std::vector<double> all;
  for (std::size_t p = 0; p < kTokens; ++p) all.push_back(relative_l2(found, wanted, p, p + 1));
  std::nth_element(all.begin(), all.begin() + kTokens / 2, all.end());
  EXPECT_LE(all[kTokens / 2], 1e-5);
  EXPECT_LE(relative_l2(found, wanted, 0, kTokens), 1e-2);
}

TEST_P(Naive, ChunksAndThreadsDoNotMatter) {
  const auto file = micro_model();
  const auto tokens = some_tokens();
  auto with = options(Graph::kOfficial, GetParam());
  const auto wanted = MicroSlice(file, with).run(tokens, kTokens);
  for (const unsigned threads : {1u, 4u}) {
    with.threads = threads;
    MicroSlice slice(file, with);
    for (const std::size_t chunk : {std::size_t{1}, std::size_t{9}, std::size_t{64}}) {
      const auto found = slice.run(tokens, chunk);
      EXPECT_EQ(std::memcmp(found.data(), wanted.data(), wanted.size() * sizeof(float)), 0)
          << threads << " threads, chunks of " << chunk;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, Naive,
                         testing::Values(cpu::Isa::kScalar, cpu::Isa::kAvx2, cpu::Isa::kAvx512),
                         [](const auto& isa) { return std::string(cpu::to_string(isa.param)); });

}  // namespace
}  // namespace ds4::test
