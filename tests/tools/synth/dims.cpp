#include "tests/tools/synth/dims.h"

#include <fmt/format.h>

namespace ds4::synth {
namespace {

Dims pro() {
  Dims d;
  d.name = "pro";
  d.n_layer = 61;
  d.n_embd = 7168;
  d.n_head = 128;
  d.q_rank = 1536;
  d.n_group = 16;
  d.index_top_k = 1024;
  d.first_ratio = 128;
  d.n_expert = 384;
  d.expert_ffn = 3072;
  d.expert_weights_scale = 2.5f;
  return d;
}

Dims tiny() {
  Dims d;
  d.name = "tiny";
  d.n_layer = 6;
  d.n_vocab = 4096;
  d.n_embd = 256;
  d.n_head = 4;
  d.head_dim = 128;
  d.q_rank = 128;
  d.n_group = 2;
  d.o_rank = 64;
  d.index_heads = 4;
  d.index_top_k = 64;
  d.n_expert = 16;
  d.n_expert_used = 4;
  d.expert_ffn = 256;
  return d;
}

tl::unexpected<Error> unknown(std::string_view what, std::string_view name,
                              std::string_view known) {
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("unknown {} '{}': use {}", what, name, known));
}

}  // namespace

Result<Dims> dims_of(std::string_view name) {
  if (name == "flash") return Dims{};
  if (name == "pro") return pro();
  if (name == "tiny") return tiny();
  return unknown("model", name, "flash, pro or tiny");
}

Result<Recipe> recipe_of(std::string_view name) {
  if (name == "q4") return Recipe::kQ4;
  if (name == "q2") return Recipe::kQ2;
  if (name == "mxfp4") return Recipe::kMxfp4;
  return unknown("recipe", name, "q4, q2 or mxfp4");
}

Result<Order> order_of(std::string_view name) {
  if (name == "layer") return Order::kLayer;
  if (name == "name") return Order::kName;
  if (name == "shuffled") return Order::kShuffled;
  return unknown("order", name, "layer, name or shuffled");
}

}  // namespace ds4::synth
