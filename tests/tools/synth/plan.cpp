#include "tests/tools/synth/plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/base/checked.h"
#include "tests/engine/gguf/gguf_builder.h"
#include "tests/tools/synth/metadata.h"
#include "tests/tools/synth/random.h"

namespace ds4::synth {
namespace {

constexpr std::uint64_t kAlignment = 32;
constexpr std::uint32_t kStreams = 4;  // of the hyper-connection

class Inventory {
 public:
  Inventory(const Dims& dims, Recipe recipe) : d_(dims), recipe_(recipe) {}

  std::vector<Tensor> all() {
    add("token_embd.weight", TensorType::kF16, {d_.n_embd, d_.n_vocab});
    for (std::uint32_t layer = 0; layer < d_.n_layer; ++layer) {
      prefix_ = fmt::format("blk.{}.", layer);
      attention(d_.compress_ratio(layer));
      experts(layer < d_.n_hash_layer);
    }
    prefix_.clear();
    hyper_connection("output_hc", kStreams, 1);
    add("output_norm.weight", TensorType::kF32, {d_.n_embd}, Content::kOnes);
    add("output.weight", TensorType::kQ8_0, {d_.n_embd, d_.n_vocab});
    return std::move(tensors_);
  }

 private:
  void add(const std::string& name, TensorType type, std::vector<std::uint64_t> dims,
           Content content = Content::kMatrix) {
    tensors_.push_back({prefix_ + name, type, std::move(dims), content, 0, 0});
  }

  void hyper_connection(const std::string& name, std::uint64_t outputs, std::uint64_t scales) {
    add(name + "_fn.weight", TensorType::kF16, {std::uint64_t{kStreams} * d_.n_embd, outputs});
    add(name + "_base.weight", TensorType::kF32, {outputs}, Content::kSmall);
    add(name + "_scale.weight", TensorType::kF32, {scales}, Content::kOnes);
  }

  void compressor(const std::string& name, std::uint64_t dim, std::uint64_t ratio) {
    const std::uint64_t width = dim * (ratio == 4 ? 2 : 1);
    add(name + "_kv.weight", TensorType::kF16, {d_.n_embd, width});
    add(name + "_gate.weight", TensorType::kF16, {d_.n_embd, width});
    add(name + "_ape.weight", TensorType::kF16, {width, ratio});
    add(name + "_norm.weight", TensorType::kF32, {dim}, Content::kOnes);
  }

  void attention(std::uint32_t ratio) {
    const std::uint64_t heads_dim = std::uint64_t{d_.n_head} * d_.head_dim;
    const std::uint64_t outputs = std::uint64_t{d_.n_group} * d_.o_rank;
    hyper_connection("hc_attn", 2 * kStreams + kStreams * kStreams, 3);
    add("attn_norm.weight", TensorType::kF32, {d_.n_embd}, Content::kOnes);
    add("attn_sinks.weight", TensorType::kF32, {d_.n_head}, Content::kSmall);
    add("attn_q_a.weight", TensorType::kQ8_0, {d_.n_embd, d_.q_rank});
    add("attn_q_a_norm.weight", TensorType::kF32, {d_.q_rank}, Content::kOnes);
    add("attn_q_b.weight", TensorType::kQ8_0, {d_.q_rank, heads_dim});
    add("attn_kv.weight", TensorType::kQ8_0, {d_.n_embd, d_.head_dim});
    add("attn_kv_a_norm.weight", TensorType::kF32, {d_.head_dim}, Content::kOnes);
    add("attn_output_a.weight", TensorType::kQ8_0, {heads_dim / d_.n_group, outputs});
    add("attn_output_b.weight", TensorType::kQ8_0, {outputs, d_.n_embd});
    if (ratio != 0) compressor("attn_compressor", d_.head_dim, ratio);
    if (ratio != 4) return;
    add("indexer.proj.weight", TensorType::kF16, {d_.n_embd, d_.index_heads});
    add("indexer.attn_q_b.weight", TensorType::kQ8_0,
        {d_.q_rank, std::uint64_t{d_.index_heads} * d_.index_dim});
    compressor("indexer_compressor", d_.index_dim, ratio);
  }

  void experts(bool hash) {
    const std::uint64_t e = d_.n_embd, f = d_.expert_ffn, n = d_.n_expert;
    hyper_connection("hc_ffn", 2 * kStreams + kStreams * kStreams, 3);
    add("ffn_norm.weight", TensorType::kF32, {e}, Content::kOnes);
    add("ffn_gate_inp.weight", TensorType::kF16, {e, n});
    if (hash) {
      add("ffn_gate_tid2eid.weight", TensorType::kI32, {d_.n_expert_used, d_.n_vocab},
          Content::kExpertIds);
    } else {
      add("exp_probs_b.bias", TensorType::kF32, {n}, Content::kSmall);
    }
    add("ffn_gate_exps.weight", input_type(), {e, f, n});
    add("ffn_up_exps.weight", input_type(), {e, f, n});
    add("ffn_down_exps.weight", output_type(), {f, e, n});
    add("ffn_gate_shexp.weight", TensorType::kQ8_0, {e, f});
    add("ffn_up_shexp.weight", TensorType::kQ8_0, {e, f});
    add("ffn_down_shexp.weight", TensorType::kQ8_0, {f, e});
  }

  TensorType input_type() const {
    if (recipe_ == Recipe::kQ4) return TensorType::kQ4_K;
    return recipe_ == Recipe::kQ2 ? TensorType::kIQ2_XXS : TensorType::kMXFP4;
  }
  TensorType output_type() const {
    if (recipe_ == Recipe::kQ4) return TensorType::kQ4_K;
    return recipe_ == Recipe::kQ2 ? TensorType::kQ2_K : TensorType::kMXFP4;
  }

  const Dims& d_;
  Recipe recipe_;
  std::string prefix_;
  std::vector<Tensor> tensors_;
};

/// Fisher-Yates with our own numbers, so that every C++ library shuffles alike.
void shuffle(std::vector<Tensor>& tensors, std::uint64_t seed) {
  for (std::size_t i = tensors.size(); i > 1; --i) {
    std::swap(tensors[i - 1], tensors[random_word(seed, i) % i]);
  }
}

Result<void> check(const Dims& d) {
  if (d.n_layer == 0 || d.n_group == 0 || d.n_head % d.n_group != 0) {
    return fail(ErrorCode::kInvalidArgument,
                "layers and groups must be positive, and the heads a "
                "multiple of the groups");
  }
  if (d.n_expert_used == 0 || d.n_expert_used > d.n_expert) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} experts used of {}", d.n_expert_used, d.n_expert));
  }
  if (d.n_vocab < kMinVocabulary || d.n_vocab > kMaxVocabulary) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("a vocabulary of {}: must be {} to {}", d.n_vocab, kMinVocabulary,
                            kMaxVocabulary));
  }
  return {};
}

Result<void> measure(Tensor& tensor) {
  const TypeTraits traits = traits_of(tensor.type).value();
  std::uint64_t values = 1;
  for (const std::uint64_t dim : tensor.dims) {
    const auto product = checked_mul(values, dim);
    if (dim == 0 || !product || *product > (std::uint64_t{1} << 50)) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("{}: no such dimensions are possible", tensor.name));
    }
    values = *product;
  }
  if (tensor.dims[0] % traits.block_values != 0) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{}: rows of {} values are not a multiple of {} ({})", tensor.name,
                            tensor.dims[0], traits.block_values, traits.name));
  }
  tensor.bytes = values / traits.block_values * traits.block_bytes;
  return {};
}

}  // namespace

Result<Plan> make_plan(const Dims& dims, Recipe recipe, Order order, std::uint64_t seed) {
  DS4_TRY(check(dims));
  Plan plan{dims, seed, {}, Inventory(dims, recipe).all(), 0};
  if (order == Order::kName) std::ranges::sort(plan.tensors, {}, &Tensor::name);
  if (order == Order::kShuffled) shuffle(plan.tensors, seed);

  test::GgufBuilder builder;
  write_metadata(builder, dims);
  std::uint64_t end = 0;  // of the tensor data
  for (Tensor& tensor : plan.tensors) {
    DS4_TRY(measure(tensor));
    tensor.offset = (end + kAlignment - 1) / kAlignment * kAlignment;
    end = tensor.offset + tensor.bytes;
    builder.tensor_at(tensor.name, tensor.type, tensor.dims, tensor.offset);
  }
  plan.header = builder.header();
  const std::uint64_t data = (plan.header.size() + kAlignment - 1) / kAlignment * kAlignment;
  for (Tensor& tensor : plan.tensors) tensor.offset += data;
  plan.file_bytes = data + end;
  return plan;
}

}  // namespace ds4::synth
