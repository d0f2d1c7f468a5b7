#include "tests/engine/model/micro_model.h"

#include <cmath>
#include <cstring>
#include <random>

#include "engine/model/hyper_params.h"

namespace ds4::test {

MicroMetadata::MicroMetadata() {
  set("block_count", 5u).set("embedding_length", 64u).set("context_length", 4096u);
  set("vocab_size", 40u);
  set("attention.head_count", 6u).set("attention.head_count_kv", 1u);
  set("attention.key_length", 64u).set("attention.value_length", 64u);
  set("rope.dimension_count", 16u).set("attention.q_lora_rank", 32u);
  set("attention.output_group_count", 3u).set("attention.output_lora_rank", 32u);
  set("attention.sliding_window", 10u);
  set("attention.indexer.head_count", 3u).set("attention.indexer.key_length", 32u);
  set("attention.indexer.top_k", 3u);
  set_array<std::int32_t>("attention.compress_ratios", {4, 0, 128, 4, 0});
  set("expert_count", 5u).set("expert_used_count", 2u).set("expert_shared_count", 1u);
  set("expert_feed_forward_length", 32u).set("hash_layer_count", 1u);
  set("hyper_connection.count", 4u).set("hyper_connection.sinkhorn_iterations", 7u);
  set("hyper_connection.epsilon", 1e-6f).set("expert_weights_scale", 2.5f);
  set("swiglu_clamp_exp", 1.5f);
  set("rope.freq_base", 5000.0f).set("attention.compress_rope_freq_base", 40000.0f);
  set("rope.scaling.type", "yarn").set("rope.scaling.factor", 8.0f);
  set("rope.scaling.original_context_length", 512u);
  set("attention.layer_norm_rms_epsilon", 1e-5f);
}

MicroMetadata& MicroMetadata::put(const std::string& name, Writer writer) {
  for (auto& [key, old] : pairs_) {
    if (key == name) return old = std::move(writer), *this;
  }
  pairs_.emplace_back(name, std::move(writer));
  return *this;
}

void MicroMetadata::write(GgufBuilder& builder) const {
  builder.meta("general.architecture", std::string_view(architecture_));
  for (const auto& [name, writer] : pairs_) writer(builder);
  if (tokens_ == 0) return;
  std::vector<std::string> words;
  for (std::size_t i = 0; i < tokens_; ++i) words.push_back("t" + std::to_string(i));
  builder.meta_array("tokenizer.ggml.tokens", std::span<const std::string>(words));
}

namespace {

/// Writes tensors with random contents whose spread suits their use.
class TensorWriter {
 public:
  TensorWriter(GgufBuilder& builder, const std::function<bool(MicroTensor&)>& edit)
      : builder_(builder), edit_(edit) {}

  void floats(const std::string& name, std::vector<std::uint64_t> dims, float middle,
              float spread) {
    MicroTensor tensor{name, TensorType::kF32, std::move(dims), {}};
    std::uniform_real_distribution<float> value(middle - spread, middle + spread);
    std::vector<float> values(count(tensor.dims));
    for (float& one : values) one = value(random_);
    store(std::move(tensor), values);
  }
  /// A matrix: rows of unit gain, roughly.
  void matrix(const std::string& name, std::vector<std::uint64_t> dims) {
    const float spread = std::sqrt(3.0f / static_cast<float>(dims[0]));
    floats(name, std::move(dims), 0, spread);
  }
  void norm(const std::string& name, std::uint64_t n) { floats(name, {n}, 1, 0.3f); }
  void numbers(const std::string& name, std::vector<std::uint64_t> dims, int below) {
    MicroTensor tensor{name, TensorType::kI32, std::move(dims), {}};
    std::vector<std::int32_t> values(count(tensor.dims));
    for (std::size_t i = 0; i < values.size(); ++i)  // of one token all different
      values[i] = static_cast<std::int32_t>((i + i / tensor.dims[0] * 2) % below);
    store(std::move(tensor), values);
  }

 private:
  static std::size_t count(const std::vector<std::uint64_t>& dims) {
    std::size_t n = 1;
    for (const std::uint64_t dim : dims) n *= dim;
    return n;
  }
  template <typename T>
  void store(MicroTensor tensor, const std::vector<T>& values) {
    tensor.data.resize(values.size() * sizeof(T));
    std::memcpy(tensor.data.data(), values.data(), tensor.data.size());
    if (edit_ && !edit_(tensor)) return;
    builder_.tensor(tensor.name, tensor.type, tensor.dims, tensor.data);
  }

  GgufBuilder& builder_;
  const std::function<bool(MicroTensor&)>& edit_;
  std::mt19937 random_{20240607};
};

void hyper_connection(TensorWriter& out, const std::string& name, std::uint64_t streams_width,
                      std::uint64_t outputs, std::uint64_t scales) {
  out.matrix(name + "_fn.weight", {streams_width, outputs});
  out.floats(name + "_base.weight", {outputs}, 0, 0.5f);
  out.floats(name + "_scale.weight", {scales}, 0.7f, 0.3f);
}

void compressor(TensorWriter& out, const std::string& name, std::uint64_t e, std::uint64_t dim,
                std::uint64_t ratio) {
  const std::uint64_t width = ratio == 4 ? 2 * dim : dim;
  out.matrix(name + "_kv.weight", {e, width});
  out.matrix(name + "_gate.weight", {e, width});
  out.floats(name + "_ape.weight", {width, ratio}, 0, 0.5f);
  out.norm(name + "_norm.weight", dim);
}

void layer(TensorWriter& out, const HyperParams& hp, std::uint32_t index) {
  const std::string blk = "blk." + std::to_string(index) + ".";
  const std::uint64_t e = hp.n_embd, heads = std::uint64_t{hp.n_head} * hp.head_dim;
  const std::uint64_t grouped = std::uint64_t{hp.n_group} * hp.o_rank, f = hp.expert_ffn;
  hyper_connection(out, blk + "hc_attn", 4 * e, 24, 3);
  hyper_connection(out, blk + "hc_ffn", 4 * e, 24, 3);
  out.norm(blk + "attn_norm.weight", e);
  out.floats(blk + "attn_sinks.weight", {hp.n_head}, 0, 1);
  out.matrix(blk + "attn_q_a.weight", {e, hp.q_rank});
  out.norm(blk + "attn_q_a_norm.weight", hp.q_rank);
  out.matrix(blk + "attn_q_b.weight", {hp.q_rank, heads});
  out.matrix(blk + "attn_kv.weight", {e, hp.head_dim});
  out.norm(blk + "attn_kv_a_norm.weight", hp.head_dim);
  out.matrix(blk + "attn_output_a.weight", {heads / hp.n_group, grouped});
  out.matrix(blk + "attn_output_b.weight", {grouped, e});
  const std::uint32_t ratio = hp.compress_ratio[index];
  if (ratio != 0) compressor(out, blk + "attn_compressor", e, hp.head_dim, ratio);
  if (ratio == 4) {
    out.matrix(blk + "indexer.proj.weight", {e, hp.index_heads});
    out.matrix(blk + "indexer.attn_q_b.weight",
               {hp.q_rank, std::uint64_t{hp.index_heads} * hp.index_dim});
    compressor(out, blk + "indexer_compressor", e, hp.index_dim, ratio);
  }
  out.norm(blk + "ffn_norm.weight", e);
  out.matrix(blk + "ffn_gate_inp.weight", {e, hp.n_expert});
  if (hp.is_hash_layer(index))
    out.numbers(blk + "ffn_gate_tid2eid.weight", {hp.n_expert_used, hp.n_vocab},
                static_cast<int>(hp.n_expert));
  else
    out.floats(blk + "exp_probs_b.bias", {hp.n_expert}, 0, 0.3f);
  out.matrix(blk + "ffn_gate_exps.weight", {e, f, hp.n_expert});
  out.matrix(blk + "ffn_up_exps.weight", {e, f, hp.n_expert});
  out.matrix(blk + "ffn_down_exps.weight", {f, e, hp.n_expert});
  out.matrix(blk + "ffn_gate_shexp.weight", {e, f});
  out.matrix(blk + "ffn_up_shexp.weight", {e, f});
  out.matrix(blk + "ffn_down_shexp.weight", {f, e});
}

}  // namespace

std::vector<std::byte> micro_model(const MicroMetadata& metadata,
                                   const std::function<bool(MicroTensor&)>& edit) {
  GgufBuilder builder;
  metadata.write(builder);
  const Bytes header = builder.build();
  const GgufFile file = GgufFile::parse(header, header.size()).value();
  const HyperParams hp = HyperParams::read(file).value();
  TensorWriter out(builder, edit);
  out.matrix("output.weight", {hp.n_embd, hp.n_vocab});
  hyper_connection(out, "output_hc", 4 * std::uint64_t{hp.n_embd}, 4, 1);
  out.norm("output_norm.weight", hp.n_embd);
  out.floats("token_embd.weight", {hp.n_embd, hp.n_vocab}, 0, 1);
  for (std::uint32_t index = 0; index < hp.n_layer; ++index) layer(out, hp, index);
  return builder.build();
}

}  // namespace ds4::test
