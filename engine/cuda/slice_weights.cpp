#include "engine/cuda/slice_weights.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <string>

#include "engine/quant/quant.h"

namespace ds4::cuda {
class WeightsLoader {
 public:
  WeightsLoader(const TensorSource& source, const HyperParams& hp, SliceWeights& weights)
      : source_(source), hp_(hp), weights_(weights) {}

  Result<void> load();

 private:
  Result<DeviceTensor> find(const std::string& name, std::array<std::uint64_t, 3> wanted) const;
  Result<ExpertStack> stack(const std::string& name, std::uint32_t cols, std::uint32_t rows,
                            std::uint32_t count) const;
  Result<DeviceMatrix> matrix(const std::string& name, std::uint32_t cols,
                              std::uint32_t rows) const;
  Result<std::vector<float>> host_floats(const std::string& name, std::uint32_t n,
                                         std::uint32_t rows) const;
  Result<const float*> floats(const std::string& name, std::uint32_t n, std::uint32_t rows = 1);
  Result<HyperConnection> hyper_connection(const std::string& name, std::uint32_t outputs,
                                           std::uint32_t scales);
  Result<CompressorWeightsOnDevice> compressor(const std::string& name, std::uint32_t dim,
                                               std::uint32_t ratio);
  Result<const std::int32_t*> token_experts(const std::string& name) const;
  Result<void> load_attention(const std::string& blk, LayerWeightsOnDevice& layer);
  Result<void> load_experts(const std::string& blk, std::uint32_t index,
                            LayerWeightsOnDevice& layer);
  Result<void> load_layer(std::uint32_t index);

  const TensorSource& source_;
  const HyperParams& hp_;
  SliceWeights& weights_;
};

/// The tensor of exactly these dimensions (trailing ones of 1 may be absent).
Result<DeviceTensor> WeightsLoader::find(const std::string& name,
                                         std::array<std::uint64_t, 3> wanted) const {
  DS4_ASSIGN(const DeviceTensor tensor, source_.tensor(name));
  if (tensor.info->dims != std::array<std::uint64_t, 4>{wanted[0], wanted[1], wanted[2], 1})
    return fail(ErrorCode::kCorrupt,
                fmt::format("{} is {}, but the metadata demands {{{},{},{}}}", name,
                            shape_text(*tensor.info), wanted[0], wanted[1], wanted[2]));
  return tensor;
}

Result<ExpertStack> WeightsLoader::stack(const std::string& name, std::uint32_t cols,
                                         std::uint32_t rows, std::uint32_t count) const {
  DS4_ASSIGN(const DeviceTensor tensor, find(name, {cols, rows, count}));
  const TensorType type = tensor.info->type;
  const std::uint32_t block = quant::block_values(type);
  if (block == 0 || cols % block != 0)
    return fail(ErrorCode::kCorrupt, fmt::format("{}: {} cannot hold rows of {} weights", name,
                                                 traits_of(type)->name, cols));
  const std::uint32_t columns = type == TensorType::kQ8_0 ? 64 : 32;  // see formats.cuh
  if (cols % columns != 0 || reinterpret_cast<std::uintptr_t>(tensor.data) % 16 != 0)
    return fail(ErrorCode::kUnsupported,
                fmt::format("{}: the CUDA engine needs rows of a multiple of {} weights, aligned "
                            "to 16 bytes; these have {}",
                            name, columns, cols));
  const std::uint64_t row_bytes = quant::row_bytes(type, cols);
  return ExpertStack{{tensor.data, row_bytes, rows, cols, static_cast<std::uint32_t>(type)},
                     row_bytes * rows};
}

Result<DeviceMatrix> WeightsLoader::matrix(const std::string& name, std::uint32_t cols,
                                           std::uint32_t rows) const {
  DS4_ASSIGN(const ExpertStack one, stack(name, cols, rows, 1));
  return one.first;
}

Result<std::vector<float>> WeightsLoader::host_floats(const std::string& name, std::uint32_t n,
                                                      std::uint32_t rows) const {
  DS4_ASSIGN(const DeviceTensor tensor, find(name, {n, rows, 1}));
  const std::uint32_t block = quant::block_values(tensor.info->type);
  if (block == 0 || n % block != 0)
    return fail(ErrorCode::kCorrupt, fmt::format("{}: {} cannot hold rows of {} weights", name,
                                                 traits_of(tensor.info->type)->name, n));
  std::vector<std::byte> bytes(tensor.info->bytes);
  DS4_TRY(source_.read_back(name, 0, bytes));
  std::vector<float> values(std::size_t{n} * rows);
  const std::size_t row_bytes = quant::row_bytes(tensor.info->type, n);
  for (std::uint32_t row = 0; row < rows; ++row)
    quant::dequantize_row(tensor.info->type, bytes.data() + row * row_bytes,
                          values.data() + std::size_t{row} * n, n);
  return values;
}

Result<const float*> WeightsLoader::floats(const std::string& name, std::uint32_t n,
                                           std::uint32_t rows) {
  DS4_ASSIGN(const std::vector<float> values, host_floats(name, n, rows));
  DS4_ASSIGN(DeviceBuffer<float> buffer, device_buffer<float>(values.size(), name));
  DS4_CUDA_TRY(cudaMemcpy(buffer.data(), values.data(), values.size() * sizeof(float),
                          cudaMemcpyHostToDevice),
               fmt::format("copy {} to the device", name));
  weights_.floats_.push_back(std::move(buffer));
  return weights_.floats_.back().data();
}

/// Halves are used where they lie; anything else becomes floats.
Result<HyperConnection> WeightsLoader::hyper_connection(const std::string& name,
                                                        std::uint32_t outputs,
                                                        std::uint32_t scales) {
  const std::uint32_t cols = hp_.n_streams * hp_.n_embd;
  HyperConnection hc;
  DS4_ASSIGN(const DeviceTensor fn, find(name + "_fn.weight", {cols, outputs, 1}));
  hc.fn_is_half = fn.info->type == TensorType::kF16;
  hc.fn = fn.data;
  if (!hc.fn_is_half) {
    DS4_ASSIGN(hc.fn, floats(name + "_fn.weight", cols, outputs));
  }
  DS4_ASSIGN(hc.base, floats(name + "_base.weight", outputs));
  DS4_ASSIGN(hc.scale, floats(name + "_scale.weight", scales));
  return hc;
}

Result<CompressorWeightsOnDevice> WeightsLoader::compressor(const std::string& name,
                                                            std::uint32_t dim,
                                                            std::uint32_t ratio) {
  const std::uint32_t width = dim * (ratio == 4 ? 2 : 1);
  CompressorWeightsOnDevice c;
  DS4_ASSIGN(c.kv, matrix(name + "_kv.weight", hp_.n_embd, width));
  DS4_ASSIGN(c.gate, matrix(name + "_gate.weight", hp_.n_embd, width));
  DS4_ASSIGN(c.ape, floats(name + "_ape.weight", width, ratio));
  DS4_ASSIGN(c.norm, floats(name + "_norm.weight", dim));
  return c;
}

/// Each is checked once here, so that routing need not.
Result<const std::int32_t*> WeightsLoader::token_experts(const std::string& name) const {
  DS4_ASSIGN(const DeviceTensor tensor, find(name, {hp_.n_expert_used, hp_.n_vocab, 1}));
  if (tensor.info->type != TensorType::kI32)
    return fail(ErrorCode::kCorrupt, fmt::format("{} is {}, but expert numbers are I32", name,
                                                 shape_text(*tensor.info)));
  std::vector<std::int32_t> experts(std::size_t{hp_.n_expert_used} * hp_.n_vocab);
  DS4_TRY(source_.read_back(name, 0, std::as_writable_bytes(std::span(experts))));
  for (std::size_t i = 0; i < experts.size(); ++i) {
    if (experts[i] < 0 || static_cast<std::uint32_t>(experts[i]) >= hp_.n_expert)
      return fail(ErrorCode::kCorrupt,
                  fmt::format("{} sends token {} to expert {} of {}", name, i / hp_.n_expert_used,
                              experts[i], hp_.n_expert));
  }
  return reinterpret_cast<const std::int32_t*>(tensor.data);
}

Result<void> WeightsLoader::load_attention(const std::string& blk, LayerWeightsOnDevice& layer) {
  const std::uint32_t e = hp_.n_embd, heads_dim = hp_.n_head * hp_.head_dim;
  DS4_ASSIGN(layer.attn_norm, floats(blk + "attn_norm.weight", e));
  DS4_ASSIGN(layer.sinks, floats(blk + "attn_sinks.weight", hp_.n_head));
  DS4_ASSIGN(layer.q_a, matrix(blk + "attn_q_a.weight", e, hp_.q_rank));
  DS4_ASSIGN(layer.q_a_norm, floats(blk + "attn_q_a_norm.weight", hp_.q_rank));
  DS4_ASSIGN(layer.q_b, matrix(blk + "attn_q_b.weight", hp_.q_rank, heads_dim));
  DS4_ASSIGN(layer.kv, matrix(blk + "attn_kv.weight", e, hp_.head_dim));
  DS4_ASSIGN(layer.kv_a_norm, floats(blk + "attn_kv_a_norm.weight", hp_.head_dim));
  DS4_ASSIGN(layer.output_a, matrix(blk + "attn_output_a.weight", heads_dim / hp_.n_group,
                                    hp_.n_group * hp_.o_rank));
  DS4_ASSIGN(layer.output_b, matrix(blk + "attn_output_b.weight", hp_.n_group * hp_.o_rank, e));
  if (layer.ratio == 0) return {};
  DS4_ASSIGN(layer.compressor, compressor(blk + "attn_compressor", hp_.head_dim, layer.ratio));
  if (!layer.has_index()) return {};
  DS4_ASSIGN(layer.index_proj, matrix(blk + "indexer.proj.weight", e, hp_.index_heads));
  DS4_ASSIGN(layer.index_q_b,
             matrix(blk + "indexer.attn_q_b.weight", hp_.q_rank, hp_.index_heads * hp_.index_dim));
  DS4_ASSIGN(layer.index_compressor,
             compressor(blk + "indexer_compressor", hp_.index_dim, layer.ratio));
  return {};
}

Result<void> WeightsLoader::load_experts(const std::string& blk, std::uint32_t index,
                                         LayerWeightsOnDevice& layer) {
  const std::uint32_t e = hp_.n_embd, f = hp_.expert_ffn, n = hp_.n_expert;
  DS4_ASSIGN(layer.ffn_norm, floats(blk + "ffn_norm.weight", e));
  DS4_ASSIGN(layer.router, matrix(blk + "ffn_gate_inp.weight", e, n));
  if (hp_.is_hash_layer(index)) {
    DS4_ASSIGN(layer.token_experts, token_experts(blk + "ffn_gate_tid2eid.weight"));
  } else if (source_.model().gguf().find(blk + "exp_probs_b.bias") != nullptr) {
    DS4_ASSIGN(layer.router_bias, floats(blk + "exp_probs_b.bias", n));
  }
  DS4_ASSIGN(layer.gate, stack(blk + "ffn_gate_exps.weight", e, f, n));
  DS4_ASSIGN(layer.up, stack(blk + "ffn_up_exps.weight", e, f, n));
  DS4_ASSIGN(layer.down, stack(blk + "ffn_down_exps.weight", f, e, n));
  DS4_ASSIGN(layer.shared_gate, matrix(blk + "ffn_gate_shexp.weight", e, f));
  DS4_ASSIGN(layer.shared_up, matrix(blk + "ffn_up_shexp.weight", e, f));
  DS4_ASSIGN(layer.shared_down, matrix(blk + "ffn_down_shexp.weight", f, e));
  if (layer.gate.first.type != layer.up.first.type ||
      layer.shared_gate.type != layer.shared_up.type)
    return fail(ErrorCode::kUnsupported,
                fmt::format("{}: the CUDA engine runs experts whose gate and up matrices are of "
                            "one type; these are not",
                            blk));
  return {};
}

Result<void> WeightsLoader::load_layer(std::uint32_t index) {
  const std::string blk = fmt::format("blk.{}.", index);
  LayerWeightsOnDevice layer;
  layer.ratio = hp_.compress_ratio[index];
  layer.swiglu_limit = hp_.swiglu_clamp[index];
  DS4_ASSIGN(layer.hc_attn, hyper_connection(blk + "hc_attn", kMixOutputs, 3));
  DS4_ASSIGN(layer.hc_ffn, hyper_connection(blk + "hc_ffn", kMixOutputs, 3));
  DS4_TRY(load_attention(blk, layer));
  DS4_TRY(load_experts(blk, index, layer));
  weights_.layers.push_back(layer);
  return {};
}

Result<void> WeightsLoader::load() {
  const LayerRange& range = source_.range();
  if (range.has_embedding()) {
    DS4_ASSIGN(weights_.embedding, matrix("token_embd.weight", hp_.n_embd, hp_.n_vocab));
  }
  for (std::uint32_t index = range.first; index <= range.last; ++index) DS4_TRY(load_layer(index));
  if (!range.output) return {};
  SliceWeights::Head head;
  DS4_ASSIGN(head.hc, hyper_connection("output_hc", hp_.n_streams, 1));
  DS4_ASSIGN(head.norm, floats("output_norm.weight", hp_.n_embd));
  DS4_ASSIGN(head.output, matrix("output.weight", hp_.n_embd, hp_.n_vocab));
  weights_.head = head;
  return {};
}

Result<SliceWeights> SliceWeights::load(const TensorSource& source, const HyperParams& params) {
  SliceWeights weights;
  DS4_TRY(WeightsLoader(source, params, weights).load());
  return weights;
}

std::uint64_t SliceWeights::own_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& buffer : floats_) bytes += buffer.size() * sizeof(float);
  return bytes;
}

}  // namespace ds4::cuda
