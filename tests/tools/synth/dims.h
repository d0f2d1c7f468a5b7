#pragma once
// The sizes of a model to invent, and the recipe by which its weights are packed.
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace ds4::synth {

/// Field names as in engine/model/hyper_params.h; the defaults are those of DeepSeek V4 Flash.
struct Dims {
  std::string name = "flash";
  std::uint32_t n_layer = 43;
  std::uint32_t n_vocab = 129280;
  std::uint32_t n_embd = 4096;
  std::uint32_t context_length = 1048576;
  std::uint32_t n_head = 64;
  std::uint32_t head_dim = 512;
  std::uint32_t rope_dim = 64;
  std::uint32_t q_rank = 1024;
  std::uint32_t n_group = 8;
  std::uint32_t o_rank = 1024;
  std::uint32_t window = 128;
  std::uint32_t index_heads = 64;
  std::uint32_t index_dim = 128;
  std::uint32_t index_top_k = 512;
  std::uint32_t first_ratio = 0;  // compress ratio of layers 0 and 1; then 4 and 128 alternate
  std::uint32_t n_expert = 256;
  std::uint32_t n_expert_used = 6;
  std::uint32_t expert_ffn = 2048;
  std::uint32_t n_hash_layer = 3;
  float expert_weights_scale = 1.5f;

  std::uint32_t compress_ratio(std::uint32_t layer) const {
    if (layer < 2) return first_ratio;
    return layer % 2 == 0 ? 4 : 128;
  }
};

/// `flash`, `pro` or `tiny`.
Result<Dims> dims_of(std::string_view name);

/// Experts: q4 = Q4_K; q2 = IQ2_XXS gate and up, Q2_K down; mxfp4 = MXFP4. The rest is the same.
enum class Recipe { kQ4, kQ2, kMxfp4 };
Result<Recipe> recipe_of(std::string_view name);

/// Where tensors stand in the file: embedding, layers, head; by name (as quantisers write them); or
/// anywhere, which makes the hull of any slice the whole file.
enum class Order { kLayer, kName, kShuffled };
Result<Order> order_of(std::string_view name);

}  // namespace ds4::synth
