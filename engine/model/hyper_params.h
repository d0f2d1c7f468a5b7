#pragma once
// Every size of the model, read from the file's metadata and from nowhere else.
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/gguf/gguf.h"

namespace ds4 {

/// plain: the published graph in float. official: DeepSeek's own inference, which rounds cached
/// values (FP8 KV rows, FP4 indexer queries and keys); the default for real models.
enum class Graph { kPlain, kOfficial };

Result<Graph> parse_graph(std::string_view text);
std::string_view to_string(Graph graph);

struct HyperParams {
  std::uint32_t n_layer = 0;  // block_count
  std::uint32_t n_vocab = 0;
  std::uint32_t n_embd = 0;  // E
  std::uint32_t context_length = 0;
  std::uint32_t n_head = 0;    // H
  std::uint32_t head_dim = 0;  // D, of the one shared key/value head and of each query head
  std::uint32_t rope_dim = 0;  // R, the last R of D
  std::uint32_t q_rank = 0;    // Q
  std::uint32_t n_group = 0;   // G, output groups
  std::uint32_t o_rank = 0;    // O, output rank of a group
  std::uint32_t window = 0;    // raw rows a query sees, its own included
  std::uint32_t index_heads = 0;
  std::uint32_t index_dim = 0;
  std::uint32_t index_top_k = 0;
  std::vector<std::uint32_t> compress_ratio;  // per layer: 0, 4 or 128
  std::uint32_t n_expert = 0;
  std::uint32_t n_expert_used = 0;
  std::uint32_t n_expert_shared = 0;
  std::uint32_t expert_ffn = 0;  // F
  std::uint32_t n_hash_layer = 0;
  std::uint32_t n_streams = 0;  // hyper_connection.count
  std::uint32_t sinkhorn_iterations = 0;
  float hc_eps = 0;
  float expert_weights_scale = 0;
  std::vector<float> swiglu_clamp;  // per layer
  float rope_base = 0;
  float compress_rope_base = 0;
  float yarn_factor = 0;
  std::uint32_t yarn_original_context = 0;
  float yarn_beta_fast = 32;
  float yarn_beta_slow = 1;
  float rms_eps = 0;

  /// Errors: kUnsupported for an architecture other than deepseek4, kCorrupt or kNotFound with the
  /// key for values that are absent or contradict one another.
  static Result<HyperParams> read(const GgufFile& file);

  bool is_hash_layer(std::uint32_t layer) const { return layer < n_hash_layer; }
};

}  // namespace ds4
