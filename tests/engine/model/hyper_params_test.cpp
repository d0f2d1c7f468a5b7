#include "engine/model/hyper_params.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/engine/model/micro_model.h"

namespace ds4::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Result<HyperParams> read(const MicroMetadata& metadata) {
  GgufBuilder builder;
  metadata.write(builder);
  const Bytes bytes = builder.build();
  DS4_ASSIGN(const GgufFile file, GgufFile::parse(bytes, bytes.size()));
  return HyperParams::read(file);
}

void expect_error(const MicroMetadata& metadata, ErrorCode code, const char* text) {
  const auto hp = read(metadata);
  ASSERT_FALSE(hp) << text;
  EXPECT_EQ(hp.error().code, code) << hp.error().message;
  EXPECT_THAT(hp.error().message, HasSubstr(text));
}

TEST(HyperParams, ReadsEverySize) {
  const auto hp = read({});
  ASSERT_TRUE(hp) << hp.error().message;
  EXPECT_EQ(hp->n_layer, 5u);
  EXPECT_EQ(hp->n_vocab, 40u);
  EXPECT_EQ(hp->n_embd, 64u);
  EXPECT_EQ(hp->context_length, 4096u);
  EXPECT_EQ(hp->n_head, 6u);
  EXPECT_EQ(hp->head_dim, 64u);
  EXPECT_EQ(hp->rope_dim, 16u);
  EXPECT_EQ(hp->q_rank, 32u);
  EXPECT_EQ(hp->n_group, 3u);
  EXPECT_EQ(hp->o_rank, 32u);
  EXPECT_EQ(hp->window, 10u);
  EXPECT_EQ(hp->index_heads, 3u);
  EXPECT_EQ(hp->index_dim, 32u);
  EXPECT_EQ(hp->index_top_k, 3u);
  EXPECT_THAT(hp->compress_ratio, ElementsAre(4, 0, 128, 4, 0));
  EXPECT_EQ(hp->n_expert, 5u);
  EXPECT_EQ(hp->n_expert_used, 2u);
  EXPECT_EQ(hp->n_expert_shared, 1u);
  EXPECT_EQ(hp->expert_ffn, 32u);
  EXPECT_EQ(hp->n_hash_layer, 1u);
  EXPECT_EQ(hp->n_streams, 4u);
  EXPECT_EQ(hp->sinkhorn_iterations, 7u);
  EXPECT_EQ(hp->hc_eps, 1e-6f);
  EXPECT_EQ(hp->expert_weights_scale, 2.5f);
  EXPECT_EQ(hp->rope_base, 5000.0f);
  EXPECT_EQ(hp->compress_rope_base, 40000.0f);
  EXPECT_EQ(hp->yarn_factor, 8.0f);
  EXPECT_EQ(hp->yarn_original_context, 512u);
  EXPECT_EQ(hp->rms_eps, 1e-5f);
}

TEST(HyperParams, YarnBetasAreOptional) {
  EXPECT_EQ(read({})->yarn_beta_fast, 32.0f);
  EXPECT_EQ(read({})->yarn_beta_slow, 1.0f);
  const auto given = read(MicroMetadata()
                              .set("rope.scaling.yarn_beta_fast", 20.0f)
                              .set("rope.scaling.yarn_beta_slow", 2.0f));
  EXPECT_EQ(given->yarn_beta_fast, 20.0f);
  EXPECT_EQ(given->yarn_beta_slow, 2.0f);
}

TEST(HyperParams, WithoutScalingNothingIsInterpolated) {
  const auto hp = read(MicroMetadata().drop("rope.scaling.type").drop("rope.scaling.factor"));
  ASSERT_TRUE(hp) << hp.error().message;
  EXPECT_EQ(hp->yarn_factor, 1.0f);
}

TEST(HyperParams, TheTokenListGivesAnAbsentVocabularySize) {
  EXPECT_EQ(read(MicroMetadata().drop("vocab_size").tokens(33))->n_vocab, 33u);
  expect_error(MicroMetadata().drop("vocab_size"), ErrorCode::kNotFound, "vocab_size");
}

TEST(HyperParams, TheClampIsOneNumberOrOnePerBlock) {
  EXPECT_THAT(read({})->swiglu_clamp, ElementsAre(1.5f, 1.5f, 1.5f, 1.5f, 1.5f));
  const auto each = read(MicroMetadata().set_array<float>("swiglu_clamp_exp", {1, 2, 3, 4, 5}));
  EXPECT_THAT(each->swiglu_clamp, ElementsAre(1, 2, 3, 4, 5));
}

TEST(HyperParams, ArraysMayGoOnBeyondTheLastBlock) {
  const auto hp = read(
      MicroMetadata().set_array<std::int32_t>("attention.compress_ratios", {4, 0, 128, 4, 0, 4}));
  ASSERT_TRUE(hp);
  EXPECT_THAT(hp->compress_ratio, ElementsAre(4, 0, 128, 4, 0));
}

TEST(HyperParams, RefusesAnotherArchitecture) {
  expect_error(MicroMetadata().architecture("llama"), ErrorCode::kUnsupported,
               "architecture \"llama\"");
}

TEST(HyperParams, NamesAKeyThatIsMissing) {
  for (const char* name : {"block_count",
                           "embedding_length",
                           "context_length",
                           "attention.head_count",
                           "attention.key_length",
                           "rope.dimension_count",
                           "attention.q_lora_rank",
                           "attention.output_group_count",
                           "attention.output_lora_rank",
                           "attention.sliding_window",
                           "attention.indexer.head_count",
                           "attention.indexer.key_length",
                           "attention.indexer.top_k",
                           "attention.compress_ratios",
                           "expert_count",
                           "expert_used_count",
                           "expert_shared_count",
                           "expert_feed_forward_length",
                           "hash_layer_count",
                           "hyper_connection.count",
                           "hyper_connection.sinkhorn_iterations",
                           "hyper_connection.epsilon",
                           "expert_weights_scale",
                           "swiglu_clamp_exp",
                           "rope.freq_base",
                           "attention.compress_rope_freq_base",
                           "rope.scaling.factor",
                           "rope.scaling.original_context_length",
                           "attention.layer_norm_rms_epsilon"})
    expect_error(MicroMetadata().drop(name), ErrorCode::kNotFound, name);
}

TEST(HyperParams, NamesAKeyThatIsZero) {
  for (const char* name :
       {"block_count", "embedding_length", "context_length", "attention.head_count",
        "attention.key_length", "rope.dimension_count", "attention.q_lora_rank",
        "attention.output_group_count", "attention.output_lora_rank", "attention.sliding_window",
        "attention.indexer.head_count", "attention.indexer.key_length", "attention.indexer.top_k",
        "expert_count", "expert_used_count", "expert_feed_forward_length", "vocab_size",
        "hyper_connection.sinkhorn_iterations"})
    expect_error(MicroMetadata().set(name, 0u), ErrorCode::kCorrupt, name);
  expect_error(MicroMetadata().set("rope.freq_base", 0.0f), ErrorCode::kCorrupt, "rope.freq_base");
  expect_error(MicroMetadata().set("rope.scaling.factor", std::nanf("")), ErrorCode::kCorrupt,
               "rope.scaling.factor");
}

TEST(HyperParams, RefusesContradictions) {
  using M = MicroMetadata;
  const auto corrupt = ErrorCode::kCorrupt;
  expect_error(M().set("rope.dimension_count", 66u), corrupt, "rope.dimension_count 66");
  expect_error(M().set("rope.dimension_count", 15u), corrupt, "odd");
  expect_error(M().set("attention.output_group_count", 4u), corrupt, "not divisible");
  expect_error(M().set("expert_used_count", 6u), corrupt, "exceeds expert_count 5");
  expect_error(M().set("hash_layer_count", 6u), corrupt, "exceeds block_count 5");
  expect_error(M().set_array<std::int32_t>("attention.compress_ratios", {4, 0}), corrupt,
               "2 entries for 5 blocks");
  expect_error(M().set_array<std::int32_t>("attention.compress_ratios", {4, 0, 64, 4, 0}), corrupt,
               "block 2 a ratio of 64");
  expect_error(M().set_array<float>("swiglu_clamp_exp", {1, 2, 3, 4}), corrupt, "4 entries");
  expect_error(M().set_array<float>("swiglu_clamp_exp", {1, 2, -3, 4, 5}), corrupt, "block 2");
}

TEST(HyperParams, RefusesWhatTheEngineTakesForGranted) {
  using M = MicroMetadata;
  const auto unsupported = ErrorCode::kUnsupported;
  expect_error(M().set("hyper_connection.count", 2u), unsupported, "supports 4 only");
  expect_error(M().set("attention.head_count_kv", 2u), unsupported, "supports 1 only");
  expect_error(M().set("attention.value_length", 32u), unsupported, "attention.value_length is 32");
  expect_error(M().set("expert_shared_count", 2u), unsupported, "supports 1 only");
  expect_error(M().set("expert_gating_func", 2u), unsupported, "expert_gating_func is 2");
  expect_error(M().set("expert_weights_norm", false), unsupported, "expert_weights_norm is false");
  expect_error(M().set("rope.scaling.type", "longrope"), unsupported, "longrope");
}

/// Sizes whose products would overflow must not get as far as an allocation.
TEST(HyperParams, RefusesSizesBeyondReason) {
  using M = MicroMetadata;
  for (const char* name : {"block_count", "embedding_length", "attention.head_count",
                           "attention.sliding_window", "attention.indexer.top_k",
                           "expert_feed_forward_length", "hyper_connection.sinkhorn_iterations"})
    expect_error(M().set(name, 0xFFFFFFF0u), ErrorCode::kCorrupt, "beyond any real model");
  expect_error(M().set("attention.head_count", 3u << 16), ErrorCode::kCorrupt, "multiply");
}

TEST(Graph, HasTwoNames) {
  EXPECT_EQ(parse_graph("plain").value(), Graph::kPlain);
  EXPECT_EQ(parse_graph("official").value(), Graph::kOfficial);
  EXPECT_EQ(to_string(Graph::kOfficial), "official");
  EXPECT_EQ(parse_graph("Plain").error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace ds4::test
