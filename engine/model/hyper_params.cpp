#include "engine/model/hyper_params.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

namespace ds4 {
namespace {

constexpr std::string_view kArchitecture = "deepseek4";

std::string key_of(std::string_view name) {
  return fmt::format("{}.{}", kArchitecture, name);
}

template <typename... Args>
tl::unexpected<Error> contradiction(fmt::format_string<Args...> text, Args&&... args) {
  return fail(ErrorCode::kCorrupt,
              "model metadata: " + fmt::format(text, std::forward<Args>(args)...));
}

/// Reads keys into fields and remembers the first failure, so that a list of keys reads as a list.
class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file) {}

  void positive(std::string_view name, std::uint32_t& field) {
    number(name, field);
    if (ok() && field == 0) set(contradiction("{} is 0", key_of(name)).value());
  }

  void number(std::string_view name, std::uint32_t& field) { take(file_.u32(key_of(name)), field); }

  void positive(std::string_view name, float& field) {
    take(file_.f32(key_of(name)), field);
    if (ok() && !(std::isfinite(field) && field > 0))
      set(contradiction("{} is {}, not a positive number", key_of(name), field).value());
  }

  void optional(std::string_view name, float& field) {
    if (file_.has(key_of(name))) positive(name, field);
  }

  /// A key that, where present, must say what this engine takes for granted.
  void expect(std::string_view name, std::uint32_t wanted) {
    if (!ok() || !file_.has(key_of(name))) return;
    std::uint32_t found = 0;
    number(name, found);
    if (ok() && found != wanted) refuse(name, std::to_string(found), std::to_string(wanted));
  }

  void expect(std::string_view name, bool wanted) {
    if (!ok() || !file_.has(key_of(name))) return;
    bool found = false;
    take(file_.boolean(key_of(name)), found);
    if (ok() && found != wanted) refuse(name, found ? "true" : "false", wanted ? "true" : "false");
  }

  template <typename T, typename U>
  void take(Result<T> value, U& field) {
    if (!ok()) return;
    if (value)
      field = std::move(*value);
    else
      set(std::move(value).error());
  }

  bool ok() const { return status_.has_value(); }
  void set(Error error) {
    if (ok()) status_ = tl::unexpected<Error>(std::move(error));
  }
  const Result<void>& status() const { return status_; }

 private:
  void refuse(std::string_view name, std::string found, std::string wanted) {
    set({ErrorCode::kUnsupported,
         fmt::format("model metadata: {} is {}; this engine supports {} only", key_of(name), found,
                     wanted)});
  }

  const GgufFile& file_;
  Result<void> status_;
};

void read_attention(Reader& reader, HyperParams& hp) {
  reader.positive("attention.head_count", hp.n_head);
  reader.expect("attention.head_count_kv", 1u);
  reader.positive("attention.key_length", hp.head_dim);
  reader.positive("rope.dimension_count", hp.rope_dim);
  reader.positive("attention.q_lora_rank", hp.q_rank);
  reader.positive("attention.output_group_count", hp.n_group);
  reader.positive("attention.output_lora_rank", hp.o_rank);
  reader.positive("attention.sliding_window", hp.window);
  reader.positive("attention.indexer.head_count", hp.index_heads);
  reader.positive("attention.indexer.key_length", hp.index_dim);
  reader.positive("attention.indexer.top_k", hp.index_top_k);
  reader.positive("attention.layer_norm_rms_epsilon", hp.rms_eps);
}

void read_rope(Reader& reader, const GgufFile& file, HyperParams& hp) {
  reader.positive("rope.freq_base", hp.rope_base);
  reader.positive("attention.compress_rope_freq_base", hp.compress_rope_base);
  std::string_view type = "none";
  if (file.has(key_of("rope.scaling.type")))
    reader.take(file.string(key_of("rope.scaling.type")), type);
  if (!reader.ok()) return;
  if (type == "none") {
    hp.yarn_factor = 1;
    hp.yarn_original_context = hp.context_length;
    return;
  }
  if (type != "yarn")
    return reader.set(
        {ErrorCode::kUnsupported,
         fmt::format("model metadata: {} is \"{}\"; this engine supports yarn and none",
                     key_of("rope.scaling.type"), type)});
  reader.positive("rope.scaling.factor", hp.yarn_factor);
  reader.positive("rope.scaling.original_context_length", hp.yarn_original_context);
  reader.optional("rope.scaling.yarn_beta_fast", hp.yarn_beta_fast);
  reader.optional("rope.scaling.yarn_beta_slow", hp.yarn_beta_slow);
}

void read_experts(Reader& reader, HyperParams& hp) {
  reader.positive("expert_count", hp.n_expert);
  reader.positive("expert_used_count", hp.n_expert_used);
  reader.positive("expert_shared_count", hp.n_expert_shared);
  reader.positive("expert_feed_forward_length", hp.expert_ffn);
  reader.positive("expert_weights_scale", hp.expert_weights_scale);
  reader.number("hash_layer_count", hp.n_hash_layer);
  reader.expect("expert_shared_count", 1u);
  reader.expect("expert_gating_func", 4u);  // sqrt(softplus)
  reader.expect("expert_weights_norm", true);
  reader.positive("hyper_connection.count", hp.n_streams);
  reader.positive("hyper_connection.sinkhorn_iterations", hp.sinkhorn_iterations);
  reader.positive("hyper_connection.epsilon", hp.hc_eps);
  reader.expect("hyper_connection.count", 4u);
}

/// Published files leave the vocabulary's size to the token list.
void read_vocabulary(Reader& reader, const GgufFile& file, HyperParams& hp) {
  if (file.has(key_of("vocab_size"))) return reader.positive("vocab_size", hp.n_vocab);
  constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
  const MetaValue* tokens = file.meta(kTokens);
  if (tokens == nullptr || tokens->type != MetaType::kArray)
    return reader.set({ErrorCode::kNotFound,
                       fmt::format("model metadata: neither {} nor {} gives the vocabulary's size",
                                   key_of("vocab_size"), kTokens)});
  if (tokens->count == 0 || tokens->count > INT32_MAX)
    return reader.set(contradiction("{} holds {} tokens", kTokens, tokens->count).value());
  hp.n_vocab = static_cast<std::uint32_t>(tokens->count);
}

/// Arrays may go on beyond the last block: published configurations list the extra blocks that
/// predict further tokens, which the file does not hold.
void read_per_layer(Reader& reader, const GgufFile& file, HyperParams& hp) {
  constexpr std::uint32_t kMostLayers = 1u << 12;
  if (reader.ok() && hp.n_layer > kMostLayers)
    return reader.set(
        contradiction("{} is {}, beyond any real model", key_of("block_count"), hp.n_layer)
            .value());
  const std::string ratios = key_of("attention.compress_ratios");
  reader.take(file.u32_array(ratios), hp.compress_ratio);
  const std::string clamp = key_of("swiglu_clamp_exp");
  const MetaValue* value = file.meta(clamp);
  if (value != nullptr && value->type == MetaType::kArray) {
    reader.take(file.f32_array(clamp), hp.swiglu_clamp);
  } else {
    float limit = 0;
    reader.positive("swiglu_clamp_exp", limit);
    hp.swiglu_clamp.assign(hp.n_layer, limit);
  }
  if (!reader.ok()) return;
  const auto fit = [&](const std::string& key, auto& list) {
    if (list.size() < hp.n_layer)
      reader.set(
          contradiction("{} has {} entries for {} blocks", key, list.size(), hp.n_layer).value());
    else
      list.resize(hp.n_layer);
  };
  fit(ratios, hp.compress_ratio);
  fit(clamp, hp.swiglu_clamp);
}

Result<void> check(const HyperParams& hp) {
  if (hp.rope_dim > hp.head_dim || hp.rope_dim > hp.index_dim)
    return contradiction(
        "rope.dimension_count {} exceeds attention.key_length {} or indexer.key_length {}",
        hp.rope_dim, hp.head_dim, hp.index_dim);
  if (hp.rope_dim % 2 != 0) return contradiction("rope.dimension_count {} is odd", hp.rope_dim);
  if (hp.n_head % hp.n_group != 0)
    return contradiction(
        "attention.head_count {} is not divisible by attention.output_group_count {}", hp.n_head,
        hp.n_group);
  if (hp.n_expert_used > hp.n_expert)
    return contradiction("expert_used_count {} exceeds expert_count {}", hp.n_expert_used,
                         hp.n_expert);
  if (hp.n_hash_layer > hp.n_layer)
    return contradiction("hash_layer_count {} exceeds block_count {}", hp.n_hash_layer, hp.n_layer);
  for (std::uint32_t layer = 0; layer < hp.n_layer; ++layer) {
    const std::uint32_t ratio = hp.compress_ratio[layer];
    if (ratio != 0 && ratio != 4 && ratio != 128)
      return contradiction(
          "attention.compress_ratios gives block {} a ratio of {}; 0, 4 and 128 exist", layer,
          ratio);
    if (const float limit = hp.swiglu_clamp[layer]; !(std::isfinite(limit) && limit > 0))
      return contradiction("swiglu_clamp_exp gives block {} a limit of {}", layer, limit);
  }
  // Sizes that multiply into buffer and matrix sizes: far above any real model, far below overflow.
  constexpr std::uint32_t kMost = 1u << 20;
  for (const std::uint32_t size :
       {hp.n_embd, hp.n_head, hp.head_dim, hp.q_rank, hp.o_rank, hp.window, hp.index_heads,
        hp.index_dim, hp.index_top_k, hp.n_expert, hp.expert_ffn, hp.sinkhorn_iterations}) {
    if (size > kMost) return contradiction("a size of {} is beyond any real model", size);
  }
  if (std::uint64_t{hp.n_head} * hp.head_dim > kMost ||
      std::uint64_t{hp.index_heads} * hp.index_dim > kMost ||
      std::uint64_t{hp.n_group} * hp.o_rank > kMost)
    return contradiction("heads and their lengths multiply to more than {}", kMost);
  return {};
}

}  // namespace

Result<Graph> parse_graph(std::string_view text) {
  if (text == "plain") return Graph::kPlain;
  if (text == "official") return Graph::kOfficial;
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("unknown graph \"{}\": use plain or official", text));
}

std::string_view to_string(Graph graph) {
  return graph == Graph::kPlain ? "plain" : "official";
}

Result<HyperParams> HyperParams::read(const GgufFile& file) {
  DS4_ASSIGN(const std::string_view architecture, file.string("general.architecture"));
  if (architecture != kArchitecture)
    return fail(ErrorCode::kUnsupported,
                fmt::format("this is a model of architecture \"{}\"; only {} models can be run",
                            architecture, kArchitecture));
  HyperParams hp;
  Reader reader(file);
  reader.positive("block_count", hp.n_layer);
  reader.positive("embedding_length", hp.n_embd);
  reader.positive("context_length", hp.context_length);
  read_attention(reader, hp);
  reader.expect("attention.value_length", hp.head_dim);
  read_rope(reader, file, hp);
  read_experts(reader, hp);
  read_vocabulary(reader, file, hp);
  read_per_layer(reader, file, hp);
  if (!reader.ok()) return tl::unexpected<Error>(reader.status().error());
  DS4_TRY(check(hp));
  return hp;
}

}  // namespace ds4
