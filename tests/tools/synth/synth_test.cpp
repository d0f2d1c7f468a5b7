// ds4-synth: files that look like the real ones to every reader, and weights that compute.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "engine/gguf/model_file.h"
#include "engine/model/cpu_slice.h"
#include "engine/quant/quant.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/gguf/temp_file.h"
#include "tests/tools/synth/fill.h"
#include "tests/tools/synth/metadata.h"
#include "tests/tools/synth/plan.h"
#include "tests/tools/synth/writer.h"

namespace ds4::synth {
namespace {

using ::testing::HasSubstr;

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

Plan plan_of(std::string_view model, Recipe recipe, Order order = Order::kLayer,
             std::uint64_t seed = 1) {
  auto plan = make_plan(dims_of(model).value(), recipe, order, seed);
  EXPECT_TRUE(plan) << plan.error().message;
  return plan ? std::move(*plan) : Plan{};
}

std::vector<std::byte> bytes_of(const Plan& plan, const Tensor& tensor) {
  std::vector<std::byte> bytes(tensor.bytes);
  const std::uint64_t step = chunk_bytes(tensor.type);
  for (std::uint64_t at = 0; at < bytes.size(); at += step) {
    fill(plan, tensor, at, std::span(bytes).subspan(at, std::min(step, bytes.size() - at)));
  }
  return bytes;
}

TEST(SynthPlan, FlashHasTheSizesOfThePublishedFiles) {
  const Plan q4 = plan_of("flash", Recipe::kQ4), q2 = plan_of("flash", Recipe::kQ2);
  EXPECT_NEAR(static_cast<double>(q4.file_bytes) / kGiB, 151, 4);
  EXPECT_NEAR(static_cast<double>(q2.file_bytes) / kGiB, 81, 3);
}

TEST(SynthPlan, HeadersParseInEveryOrder) {
  for (const auto* model : {"tiny", "flash", "pro"}) {
    for (const Order order : {Order::kLayer, Order::kName, Order::kShuffled}) {
      const Plan plan = plan_of(model, Recipe::kQ2, order);
      const auto file = GgufFile::parse(plan.header, plan.file_bytes);
      ASSERT_TRUE(file) << file.error().message;
      ASSERT_EQ(file->tensors().size(), plan.tensors.size());
      for (const Tensor& tensor : plan.tensors) {
        ASSERT_EQ(file->find(tensor.name)->offset, tensor.offset) << tensor.name;
        ASSERT_EQ(file->find(tensor.name)->bytes, tensor.bytes) << tensor.name;
      }
      const auto params = HyperParams::read(*file);
      ASSERT_TRUE(params) << params.error().message;
      EXPECT_EQ(params->n_layer, plan.dims.n_layer);
    }
  }
}

TEST(SynthPlan, ShufflingMakesTheHullOfAnySliceMostOfTheFile) {
  const auto hull_bytes = [](Order order) {
    const Plan plan = plan_of("flash", Recipe::kQ4, order);
    const auto file = GgufFile::parse(plan.header, plan.file_bytes);
    const auto cover = SpanCover::of(*file, LayerRange{40, 42, true}, 4096);
    EXPECT_LT(cover->cover_bytes(), plan.file_bytes / 10);
    return static_cast<double>(cover->hull().bytes()) / static_cast<double>(plan.file_bytes);
  };
  EXPECT_LT(hull_bytes(Order::kLayer), 0.1);
  EXPECT_GT(hull_bytes(Order::kShuffled), 0.9);
}

TEST(SynthPlan, RefusesDimensionsThatNoBlockFormatHolds) {
  Dims dims = dims_of("tiny").value();
  dims.expert_ffn = 300;
  const auto plan = make_plan(dims, Recipe::kQ4, Order::kLayer, 1);
  ASSERT_FALSE(plan);
  EXPECT_THAT(plan.error().message, HasSubstr("ffn_down_exps"));
  dims = dims_of("tiny").value();
  dims.n_vocab = 100;
  EXPECT_FALSE(make_plan(dims, Recipe::kQ4, Order::kLayer, 1));
  dims = dims_of("tiny").value();
  dims.n_expert_used = 17;
  EXPECT_FALSE(make_plan(dims, Recipe::kQ4, Order::kLayer, 1));
}

TEST(SynthOptions, NameWhatTheyDoNotKnow) {
  EXPECT_THAT(dims_of("huge").error().message, HasSubstr("flash, pro or tiny"));
  EXPECT_THAT(recipe_of("q5").error().message, HasSubstr("q4, q2 or mxfp4"));
  EXPECT_THAT(order_of("random").error().message, HasSubstr("layer, name or shuffled"));
}

TEST(SynthVocabulary, ReachesItsLargestSizeWithoutDoubles) {
  Dims dims = dims_of("tiny").value();
  dims.n_vocab = kMaxVocabulary;
  const auto plan = make_plan(dims, Recipe::kQ4, Order::kLayer, 1);
  ASSERT_TRUE(plan) << plan.error().message;
  const auto file = GgufFile::parse(plan->header, plan->file_bytes);
  ASSERT_TRUE(file);
  const auto tokens = file->string_array("tokenizer.ggml.tokens").value();
  EXPECT_EQ(tokens.size(), kMaxVocabulary);
  EXPECT_EQ(std::set<std::string_view>(tokens.begin(), tokens.end()).size(), tokens.size());
}

TEST(SynthVocabulary, TokenizesAnyTextAndBack) {
  const Plan plan = plan_of("tiny", Recipe::kQ4);
  const auto file = GgufFile::parse(plan.header, plan.file_bytes);
  ASSERT_TRUE(file);
  const auto tokenizer = Tokenizer::load(*file);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const std::string text = "What is 37 + 45? Łódź, 東京\n";
  const auto tokens = tokenizer->encode(text, false);
  EXPECT_EQ(tokenizer->decode(tokens), text);
  EXPECT_LT(tokens.size(), text.size());  // merges happen
}

TEST(SynthFill, WeightsHaveZeroMeanAndTheVarianceOfTheirRowLength) {
  for (const auto type :
       {TensorType::kF32, TensorType::kF16, TensorType::kBF16, TensorType::kQ8_0, TensorType::kQ4_K,
        TensorType::kQ2_K, TensorType::kIQ2_XXS, TensorType::kMXFP4}) {
    const std::uint32_t cols = 4096, rows = 64;
    const Tensor tensor{
        "t", type, {cols, rows}, Content::kMatrix, 0, quant::row_bytes(type, cols) * rows};
    const auto bytes = bytes_of(Plan{}, tensor);
    std::vector<float> row(cols);
    double sum = 0, squares = 0;
    for (std::uint32_t r = 0; r < rows; ++r) {
      quant::dequantize_row(type, bytes.data() + r * quant::row_bytes(type, cols), row.data(),
                            cols);
      for (const float value : row) {
        sum += value;
        squares += double{value} * value;
      }
    }
    const double n = double{cols} * rows;
    const double deviation = std::sqrt(squares / n) * std::sqrt(double{cols});
    // 262144 samples: the mean of independent ones lies within 5/512 deviations, and the deviation
    // within a few percent; but MXFP4 has only powers of two to scale with, which may be off
    // by 1.41.
    const double off = type == TensorType::kMXFP4 ? 1.45 : 1.05;
    EXPECT_LT(std::abs(sum / n) * std::sqrt(double{cols}), 5.0 / 512) << traits_of(type)->name;
    EXPECT_GT(deviation, 1 / off) << traits_of(type)->name;
    EXPECT_LT(deviation, off) << traits_of(type)->name;
  }
}

TEST(SynthFill, BytesDependOnSeedNameAndPlaceAlone) {
  const Plan plan = plan_of("flash", Recipe::kQ4),
             other_seed = plan_of("flash", Recipe::kQ4, Order::kShuffled, 2);
  const Tensor gate{"g",
                    TensorType::kQ4_K,
                    {4096, 20000},
                    Content::kMatrix,
                    0,
                    quant::row_bytes(TensorType::kQ4_K, 4096) * 20000};
  ASSERT_GT(gate.bytes, 2 * chunk_bytes(gate.type));
  const auto whole = bytes_of(plan, gate);
  // The second chunk alone, shortened.
  std::vector<std::byte> part(144 * 100);
  fill(plan, gate, chunk_bytes(gate.type), part);
  EXPECT_TRUE(
      std::ranges::equal(part, std::span(whole).subspan(chunk_bytes(gate.type), part.size())));
  Tensor renamed = gate;
  renamed.name = "h";
  EXPECT_NE(whole, bytes_of(plan, renamed));
  EXPECT_NE(whole, bytes_of(other_seed, gate));
}

TEST(SynthFill, ExpertsOfATokenAreDistinctAndExist) {
  const Plan plan = plan_of("flash", Recipe::kQ4);
  const auto tensor =
      std::ranges::find(plan.tensors, "blk.1.ffn_gate_tid2eid.weight", &Tensor::name);
  ASSERT_NE(tensor, plan.tensors.end());
  const auto bytes = bytes_of(plan, *tensor);
  std::set<std::int32_t> seen;
  for (std::uint32_t token = 0; token < plan.dims.n_vocab; ++token) {
    std::int32_t ids[6];
    std::memcpy(ids, bytes.data() + std::size_t{token} * sizeof ids, sizeof ids);
    ASSERT_EQ(std::set<std::int32_t>(ids, ids + 6).size(), 6u) << token;
    for (const std::int32_t id : ids) ASSERT_TRUE(id >= 0 && id < 256);
    seen.insert(ids, ids + 6);
  }
  EXPECT_EQ(seen.size(), 256u);
}

TEST(SynthFile, IsSparseOutsideThePopulatedLayers) {
  const test::TempDir dir;
  Dims dims = dims_of("tiny").value();
  dims.n_layer = 12;
  const auto plan = make_plan(dims, Recipe::kQ4, Order::kShuffled, 1);
  ASSERT_TRUE(plan);
  const std::string path = dir.file("m.gguf");
  const LayerRange range{10, 11, true};
  const auto written = write_file(*plan, path, range, 3);
  ASSERT_TRUE(written) << written.error().message;
  struct stat info = {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(info.st_size), plan->file_bytes);
  EXPECT_LT(info.st_blocks * 512, info.st_size / 2);

  const auto model = ModelFile::open(path);
  ASSERT_TRUE(model) << model.error().message;
  const auto slice = ResidentSlice::load(*model, LayerRange{0, 11, true});
  ASSERT_TRUE(slice) << slice.error().message;
  std::uint64_t own_bytes = 0;
  for (const Tensor& tensor : plan->tensors) {
    const auto view = (*slice)->tensor(tensor.name);
    ASSERT_TRUE(view);
    if (range.owns(tensor.name)) {
      own_bytes += tensor.bytes;
      EXPECT_TRUE(std::ranges::equal(view->bytes, bytes_of(*plan, tensor))) << tensor.name;
    } else {
      EXPECT_TRUE(std::ranges::all_of(view->bytes, [](std::byte b) { return b == std::byte{0}; }))
          << tensor.name;
    }
  }
  EXPECT_EQ(*written, own_bytes);
}

TEST(SynthFile, IsTheSameWhateverTheThreads) {
  const test::TempDir dir;
  const Plan plan = plan_of("tiny", Recipe::kQ2);
  const LayerRange all{0, 5, true};
  ASSERT_TRUE(write_file(plan, dir.file("one"), all, 1));
  ASSERT_TRUE(write_file(plan, dir.file("four"), all, 4));
  EXPECT_EQ(ModelFile::open(dir.file("one")).value()->fingerprint(),
            ModelFile::open(dir.file("four")).value()->fingerprint());
}

TEST(SynthFile, DoesNotOverwrite) {
  const test::TempDir dir;
  const std::string path = dir.write("m.gguf", {});
  const auto written = write_file(plan_of("tiny", Recipe::kQ4), path, std::nullopt, 1);
  ASSERT_FALSE(written);
  EXPECT_THAT(written.error().message, HasSubstr(path));
  EXPECT_EQ(::access(path.c_str(), F_OK), 0);
}

class SynthModels : public ::testing::TestWithParam<Recipe> {};
INSTANTIATE_TEST_SUITE_P(Recipes, SynthModels,
                         ::testing::Values(Recipe::kQ4, Recipe::kQ2, Recipe::kMxfp4));

TEST_P(SynthModels, ComputeFiniteAndDifferentLogits) {
  const test::TempDir dir;
  const Plan plan = plan_of("tiny", GetParam());
  const LayerRange all{0, 5, true};
  const auto written = write_file(plan, dir.file("m.gguf"), all, 2);
  ASSERT_TRUE(written) << written.error().message;
  const auto model = ModelFile::open(dir.file("m.gguf"));
  ASSERT_TRUE(model) << model.error().message;
  const auto weights = ResidentSlice::load(*model, all);
  ASSERT_TRUE(weights) << weights.error().message;
  const auto slice = make_cpu_slice(*weights, {});
  ASSERT_TRUE(slice) << slice.error().message;
  ASSERT_TRUE((*slice)->open_session(1, 512));
  std::vector<std::int32_t> tokens(200);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int32_t>(i * 19);
  std::vector<float> logits(plan.dims.n_vocab);
  const Segment segment{1, 0, tokens, LogitsWanted::kLast};
  const auto ok = (*slice)->forward({{&segment, 1}, {}}, {{}, logits});
  ASSERT_TRUE(ok) << ok.error().message;
  EXPECT_TRUE(std::ranges::all_of(logits, [](float x) { return std::isfinite(x); }));
  const auto [low, high] = std::ranges::minmax(logits);
  EXPECT_GT(high - low, 0.5f);  // weights of zeros would give one value to all
  EXPECT_LT(high - low, 100.0f);
}

}  // namespace
}  // namespace ds4::synth
