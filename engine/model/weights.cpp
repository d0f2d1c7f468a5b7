#include "engine/model/weights.h"

#include <fmt/format.h>

#include <cstring>
#include <string>

#include "engine/gguf/model_file.h"
#include "engine/quant/quant.h"

namespace ds4 {
namespace {

/// Finds tensors of one prefix ("blk.3.", or none) and checks them.
class Loader {
 public:
  Loader(const ResidentSlice& slice, std::string prefix)
      : slice_(slice), prefix_(std::move(prefix)) {}

  /// {cols, rows} of any type that products take.
  Result<cpu::Matrix> matrix(std::string_view name, std::uint32_t cols, std::uint32_t rows) const {
    DS4_ASSIGN(const auto stack, matrices(name, cols, rows, 1));
    return stack.front();
  }

  /// {cols, rows, count}, as `count` matrices.
  Result<std::vector<cpu::Matrix>> matrices(std::string_view name, std::uint32_t cols,
                                            std::uint32_t rows, std::uint32_t count) const {
    DS4_ASSIGN(const TensorView view, find(name, {cols, rows, count}));
    const std::uint32_t block = quant::block_values(view.info->type);
    if (block == 0 || cols % block != 0)
      return fail(ErrorCode::kCorrupt,
                  fmt::format("{}{}: {} cannot hold rows of {} weights", prefix_, name,
                              traits_of(view.info->type)->name, cols));
    const std::size_t bytes = quant::row_bytes(view.info->type, cols) * rows;
    std::vector<cpu::Matrix> result;
    for (std::uint32_t i = 0; i < count; ++i)
      result.push_back({view.info->type, rows, cols, view.bytes.data() + i * bytes});
    return result;
  }

  /// {n}, or {n, rows}: few enough values to keep as floats.
  Result<std::vector<float>> floats(std::string_view name, std::uint32_t n,
                                    std::uint32_t rows = 1) const {
    DS4_ASSIGN(const cpu::Matrix m, matrix(name, n, rows));
    std::vector<float> result(std::size_t{n} * rows);
    for (std::uint32_t row = 0; row < rows; ++row)
      quant::dequantize_row(m.type, m.data + row * quant::row_bytes(m.type, n),
                            result.data() + std::size_t{row} * n, n);
    return result;
  }

  bool has(std::string_view name) const {
    return slice_.model().gguf().find(prefix_ + std::string(name)) != nullptr;
  }

  /// The tensor of exactly these dimensions (trailing ones of 1 may be absent).
  Result<TensorView> find(std::string_view name, std::array<std::uint64_t, 3> wanted) const {
    const std::string full = prefix_ + std::string(name);
    DS4_ASSIGN(const TensorView view, slice_.tensor(full));
    const auto& dims = view.info->dims;
    if (dims != std::array<std::uint64_t, 4>{wanted[0], wanted[1], wanted[2], 1})
      return fail(ErrorCode::kCorrupt,
                  fmt::format("{} is {}, but the metadata demands {{{},{},{}}}", full,
                              shape_text(*view.info), wanted[0], wanted[1], wanted[2]));
    return view;
  }

 private:
  const ResidentSlice& slice_;
  std::string prefix_;
};

Result<HyperConnectionWeights> load_hc(const Loader& loader, const std::string& name,
                                       const HyperParams& hp, std::uint32_t outputs,
                                       std::uint32_t scales) {
  HyperConnectionWeights hc;
  DS4_ASSIGN(hc.fn, loader.matrix(name + "_fn.weight", hp.n_streams * hp.n_embd, outputs));
  DS4_ASSIGN(hc.base, loader.floats(name + "_base.weight", outputs));
  DS4_ASSIGN(hc.scale, loader.floats(name + "_scale.weight", scales));
  return hc;
}

Result<CompressorWeights> load_compressor(const Loader& loader, const std::string& name,
                                          const HyperParams& hp, std::uint32_t dim,
                                          std::uint32_t ratio) {
  const std::uint32_t width = dim * (ratio == 4 ? 2 : 1);
  CompressorWeights c;
  DS4_ASSIGN(c.kv, loader.matrix(name + "_kv.weight", hp.n_embd, width));
  DS4_ASSIGN(c.gate, loader.matrix(name + "_gate.weight", hp.n_embd, width));
  DS4_ASSIGN(c.ape, loader.floats(name + "_ape.weight", width, ratio));
  DS4_ASSIGN(c.norm, loader.floats(name + "_norm.weight", dim));
  return c;
}

Result<void> load_attention(const Loader& loader, const HyperParams& hp, std::uint32_t ratio,
                            LayerWeights& layer) {
  const std::uint32_t heads_dim = hp.n_head * hp.head_dim;
  DS4_ASSIGN(layer.attn_norm, loader.floats("attn_norm.weight", hp.n_embd));
  DS4_ASSIGN(layer.sinks, loader.floats("attn_sinks.weight", hp.n_head));
  DS4_ASSIGN(layer.q_a, loader.matrix("attn_q_a.weight", hp.n_embd, hp.q_rank));
  DS4_ASSIGN(layer.q_a_norm, loader.floats("attn_q_a_norm.weight", hp.q_rank));
  DS4_ASSIGN(layer.q_b, loader.matrix("attn_q_b.weight", hp.q_rank, heads_dim));
  DS4_ASSIGN(layer.kv, loader.matrix("attn_kv.weight", hp.n_embd, hp.head_dim));
  DS4_ASSIGN(layer.kv_a_norm, loader.floats("attn_kv_a_norm.weight", hp.head_dim));
  DS4_ASSIGN(layer.output_a,
             loader.matrix("attn_output_a.weight", heads_dim / hp.n_group, hp.n_group * hp.o_rank));
  DS4_ASSIGN(layer.output_b,
             loader.matrix("attn_output_b.weight", hp.n_group * hp.o_rank, hp.n_embd));
  if (ratio == 0) return {};
  DS4_ASSIGN(layer.compressor, load_compressor(loader, "attn_compressor", hp, hp.head_dim, ratio));
  if (ratio != 4) return {};
  IndexerWeights indexer;
  DS4_ASSIGN(indexer.proj, loader.matrix("indexer.proj.weight", hp.n_embd, hp.index_heads));
  DS4_ASSIGN(indexer.q_b,
             loader.matrix("indexer.attn_q_b.weight", hp.q_rank, hp.index_heads * hp.index_dim));
  DS4_ASSIGN(indexer.compressor,
             load_compressor(loader, "indexer_compressor", hp, hp.index_dim, ratio));
  layer.indexer = std::move(indexer);
  return {};
}

/// The experts of every token in a hash layer, each checked once here so that routing need not.
Result<const std::byte*> load_token_experts(const Loader& loader, const HyperParams& hp) {
  constexpr std::string_view kName = "ffn_gate_tid2eid.weight";
  DS4_ASSIGN(const TensorView view, loader.find(kName, {hp.n_expert_used, hp.n_vocab, 1}));
  if (view.info->type != TensorType::kI32)
    return fail(ErrorCode::kCorrupt, fmt::format("{} is {}, but expert numbers are I32",
                                                 view.info->name, shape_text(*view.info)));
  const std::size_t count = std::size_t{hp.n_expert_used} * hp.n_vocab;
  for (std::size_t i = 0; i < count; ++i) {
    std::int32_t expert = 0;
    std::memcpy(&expert, view.bytes.data() + i * sizeof expert, sizeof expert);
    if (expert < 0 || static_cast<std::uint32_t>(expert) >= hp.n_expert)
      return fail(ErrorCode::kCorrupt,
                  fmt::format("{} sends token {} to expert {} of {}", view.info->name,
                              i / hp.n_expert_used, expert, hp.n_expert));
  }
  return view.bytes.data();
}

Result<void> load_experts(const Loader& loader, const HyperParams& hp, bool hash,
                          LayerWeights& layer) {
  DS4_ASSIGN(layer.ffn_norm, loader.floats("ffn_norm.weight", hp.n_embd));
  DS4_ASSIGN(layer.router, loader.matrix("ffn_gate_inp.weight", hp.n_embd, hp.n_expert));
  if (hash) {
    DS4_ASSIGN(layer.token_experts, load_token_experts(loader, hp));
  } else if (loader.has("exp_probs_b.bias")) {
    DS4_ASSIGN(layer.router_bias, loader.floats("exp_probs_b.bias", hp.n_expert));
  }
  const std::uint32_t e = hp.n_embd, f = hp.expert_ffn, n = hp.n_expert;
  DS4_ASSIGN(const auto gates, loader.matrices("ffn_gate_exps.weight", e, f, n));
  DS4_ASSIGN(const auto ups, loader.matrices("ffn_up_exps.weight", e, f, n));
  DS4_ASSIGN(const auto downs, loader.matrices("ffn_down_exps.weight", f, e, n));
  for (std::uint32_t i = 0; i < n; ++i) layer.experts.push_back({gates[i], ups[i], downs[i]});
  DS4_ASSIGN(layer.shared.gate, loader.matrix("ffn_gate_shexp.weight", e, f));
  DS4_ASSIGN(layer.shared.up, loader.matrix("ffn_up_shexp.weight", e, f));
  DS4_ASSIGN(layer.shared.down, loader.matrix("ffn_down_shexp.weight", f, e));
  return {};
}

Result<LayerWeights> load_layer(const ResidentSlice& slice, const HyperParams& hp,
                                std::uint32_t index) {
  const Loader loader(slice, fmt::format("blk.{}.", index));
  const std::uint32_t outputs = 2 * hp.n_streams + hp.n_streams * hp.n_streams;
  LayerWeights layer;
  DS4_ASSIGN(layer.hc_attn, load_hc(loader, "hc_attn", hp, outputs, 3));
  DS4_ASSIGN(layer.hc_ffn, load_hc(loader, "hc_ffn", hp, outputs, 3));
  DS4_TRY(load_attention(loader, hp, hp.compress_ratio[index], layer));
  DS4_TRY(load_experts(loader, hp, hp.is_hash_layer(index), layer));
  return layer;
}

}  // namespace

Result<Weights> Weights::load(const ResidentSlice& slice, const HyperParams& hp) {
  const LayerRange& range = slice.range();
  const Loader loader(slice, "");
  Weights weights;
  if (range.has_embedding()) {
    DS4_ASSIGN(weights.embedding, loader.matrix("token_embd.weight", hp.n_embd, hp.n_vocab));
  }
  for (std::uint32_t index = range.first; index <= range.last; ++index) {
    DS4_ASSIGN(auto layer, load_layer(slice, hp, index));
    weights.layers.push_back(std::move(layer));
  }
  if (range.output) {
    HeadWeights head;
    DS4_ASSIGN(head.hc, load_hc(loader, "output_hc", hp, hp.n_streams, 1));
    DS4_ASSIGN(head.norm, loader.floats("output_norm.weight", hp.n_embd));
    DS4_ASSIGN(head.output, loader.matrix("output.weight", hp.n_embd, hp.n_vocab));
    weights.head = std::move(head);
  }
  return weights;
}

}  // namespace ds4
