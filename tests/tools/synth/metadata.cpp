#include "tests/tools/synth/metadata.h"

#include <fmt/format.h>

#include <string>
#include <vector>

namespace ds4::synth {
namespace {

constexpr std::int32_t kNormal = 1;
constexpr std::int32_t kControl = 3;

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
  std::vector<std::string> merges;

  void add(std::string token, std::int32_t type = kNormal) {
    tokens.push_back(std::move(token));
    types.push_back(type);
  }
};

/// A byte as byte-level BPE writes it (GPT-2's table): printable Latin-1 as itself, the others as
/// the characters from U+0100 on.
std::vector<std::string> byte_letters() {
  std::vector<std::string> letters;
  std::uint32_t next = 0x100;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const std::uint32_t code = printable ? byte : next++;
    if (code < 0x80) {
      letters.emplace_back(1, static_cast<char>(code));
    } else {
      letters.push_back(
          {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 63))});
    }
  }
  return letters;
}

/// Control tokens, bytes, then pairs and triples of letters, each the merge of its beginning and
/// its last letter: every token can be reached, and no two merges conflict.
Vocabulary make_vocabulary(std::uint32_t size) {
  Vocabulary v;
  for (const auto* control : {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>",
                              "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"}) {
    v.add(control, kControl);
  }
  for (std::string& letter : byte_letters()) v.add(std::move(letter));
  const std::string_view letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  const auto extend = [&](const std::string& beginning) {
    for (const char last : letters) {
      if (v.tokens.size() == size) return;
      v.merges.push_back(fmt::format("{} {}", beginning, last));
      v.add(beginning + last);
    }
  };
  for (const char first : letters) extend(std::string(1, first));
  for (const char first : letters) {
    for (const char second : letters) extend({first, second});
  }
  return v;
}

void write_tokenizer(test::GgufBuilder& builder, std::uint32_t n_vocab) {
  const Vocabulary v = make_vocabulary(n_vocab);
  builder.meta("tokenizer.ggml.model", "gpt2")
      .meta("tokenizer.ggml.pre", "joyai-llm")
      .meta_array("tokenizer.ggml.tokens", std::span<const std::string>(v.tokens))
      .meta_array("tokenizer.ggml.token_type", std::span<const std::int32_t>(v.types))
      .meta_array("tokenizer.ggml.merges", std::span<const std::string>(v.merges))
      .meta("tokenizer.ggml.bos_token_id", std::uint32_t{0})
      .meta("tokenizer.ggml.eos_token_id", std::uint32_t{1})
      .meta("tokenizer.ggml.padding_token_id", std::uint32_t{2})
      .meta("tokenizer.ggml.add_bos_token", true);
}

}  // namespace

void write_metadata(test::GgufBuilder& builder, const Dims& d) {
  builder.meta("general.architecture", "deepseek4")
      .meta("general.name", fmt::format("synthetic {}", d.name))
      .meta("general.description", "Random weights with the sizes of a real model; for tests.");
  const auto number = [&](std::string_view key, std::uint32_t value) {
    builder.meta(fmt::format("deepseek4.{}", key), value);
  };
  const auto real = [&](std::string_view key, float value) {
    builder.meta(fmt::format("deepseek4.{}", key), value);
  };
  number("block_count", d.n_layer);
  number("context_length", d.context_length);
  number("embedding_length", d.n_embd);
  number("vocab_size", d.n_vocab);
  number("feed_forward_length", d.expert_ffn);
  number("expert_count", d.n_expert);
  number("expert_used_count", d.n_expert_used);
  number("expert_feed_forward_length", d.expert_ffn);
  number("expert_shared_count", 1);
  number("expert_gating_func", 4);
  number("hash_layer_count", d.n_hash_layer);
  number("attention.head_count", d.n_head);
  number("attention.head_count_kv", 1);
  number("attention.key_length", d.head_dim);
  number("attention.value_length", d.head_dim);
  number("attention.q_lora_rank", d.q_rank);
  number("attention.output_lora_rank", d.o_rank);
  number("attention.output_group_count", d.n_group);
  number("attention.sliding_window", d.window);
  number("attention.indexer.head_count", d.index_heads);
  number("attention.indexer.key_length", d.index_dim);
  number("attention.indexer.top_k", d.index_top_k);
  number("rope.dimension_count", d.rope_dim);
  number("hyper_connection.count", 4);
  number("hyper_connection.sinkhorn_iterations", 20);
  number("rope.scaling.original_context_length", 65536);
  real("attention.layer_norm_rms_epsilon", 1e-6f);
  real("rope.freq_base", 1e4f);
  real("rope.scaling.factor", 16.0f);
  real("rope.scaling.yarn_beta_fast", 32.0f);
  real("rope.scaling.yarn_beta_slow", 1.0f);
  real("attention.compress_rope_freq_base", 1.6e5f);
  real("expert_weights_scale", d.expert_weights_scale);
  real("hyper_connection.epsilon", 1e-6f);
  builder.meta("deepseek4.rope.scaling.type", "yarn").meta("deepseek4.expert_weights_norm", true);
  std::vector<std::uint32_t> ratios;
  for (std::uint32_t layer = 0; layer < d.n_layer; ++layer)
    ratios.push_back(d.compress_ratio(layer));
  builder.meta_array("deepseek4.attention.compress_ratios", std::span<const std::uint32_t>(ratios));
  const std::vector<float> clamps(d.n_layer, 10.0f);
  builder.meta_array("deepseek4.swiglu_clamp_exp", std::span<const float>(clamps));
  write_tokenizer(builder, d.n_vocab);
}

}  // namespace ds4::synth
