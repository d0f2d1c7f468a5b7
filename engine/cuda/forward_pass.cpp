#include "engine/cuda/forward_pass.h"

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "engine/cuda/kernels/wide_products.h"

namespace ds4::cuda {
namespace {

constexpr std::uint64_t kMostScoreFloats = 32ull << 20;
constexpr std::uint64_t kMostPartFloats = 64ull << 20;

std::uint32_t round_up_bound(std::uint32_t n) {
  return n == 0 ? 0 : std::bit_ceil(n);
}

std::uint32_t parts_of(const HyperParams& hp, std::uint32_t position, std::uint32_t ratio) {
  const std::uint32_t raw = std::min(position + 1, hp.window);
  std::uint32_t visible = ratio == 0 ? 0 : (position + 1) / ratio;
  if (ratio == 4) visible = std::min(visible, hp.index_top_k);
  return (raw + visible + kKeyPart - 1) / kKeyPart;
}

/// Lays buffers out in one allocation: first to learn its size, then to place them.
class Layout {
 public:
  explicit Layout(std::byte* base) : base_(base) {}

  template <typename T>
  void place(T*& pointer, std::uint64_t count) {
    constexpr std::uint64_t kAlign = 256;
    pointer = reinterpret_cast<T*>(base_ + end_);
    end_ += (count * sizeof(T) + kAlign - 1) / kAlign * kAlign;
  }
  void place(QuantisedRows& rows, std::uint64_t count, std::uint32_t stride) {
    std::byte* memory = nullptr;
    place(memory, QuantisedRows::bytes(count, stride));
    rows = QuantisedRows::place(memory, count, stride);
  }
  /// Two forms of rows of which there is only one at a time.
  void place_either(__half*& halves, QuantisedRows& integers, std::uint64_t count,
                    std::uint32_t stride) {
    const std::uint64_t begin = end_;
    place(halves, count * stride);
    const std::uint64_t end = std::exchange(end_, begin);
    place(integers, count, stride);
    end_ = std::max(end, end_);
  }
  void place(BlockInput& x, std::uint64_t count, std::uint32_t stride) {
    place(x.halves, count * stride);
    place(x.integers, count, stride);
  }
  std::uint64_t end() const { return end_; }

 private:
  std::byte* base_;
  std::uint64_t end_ = 0;
};

void lay_out(Layout& at, const HyperParams& hp, const LayerRange& range, std::uint64_t n,
             DeviceWorkspace& ws) {
  const std::uint64_t e = hp.n_embd, heads = std::uint64_t{hp.n_head} * hp.head_dim;
  const std::uint64_t entries = n * (hp.n_expert_used + 1);
  at.place(ws.tables, n * (sizeof(RowEntry) + sizeof(SegmentEntry) + sizeof(std::uint32_t)));
  at.place(ws.streams, n * hp.n_streams * e);
  at.place(ws.mix, n * kMixKept);
  at.place(ws.mix_logits, n * kMixOutputs);
  at.place(ws.angles, n * 4 * hp.rope_dim);
  at.place(ws.x, n, hp.n_embd);
  at.place(ws.y, n * e);
  at.place(ws.qr, n * hp.q_rank);
  at.place(ws.kv, n * hp.head_dim);
  at.place(ws.qr_half, n * hp.q_rank);
  at.place(ws.qr_integers, n, hp.q_rank);
  at.place(ws.kv_half, n * hp.head_dim);
  at.place(ws.pool_kv, n * 2 * hp.head_dim);
  at.place(ws.pool_gate, n * 2 * hp.head_dim);
  at.place(ws.index_pool_kv, n * 2 * hp.index_dim);
  at.place(ws.index_pool_gate, n * 2 * hp.index_dim);
  at.place(ws.index_w, n * hp.index_heads);
  at.place(ws.index_q, n * hp.index_heads * hp.index_dim);
  at.place(ws.q, n * heads);
  at.place(ws.q_half, n * heads);
  at.place_either(ws.heads, ws.heads_integers, n, hp.n_head * hp.head_dim);
  at.place(ws.groups, n * hp.n_group * hp.o_rank);
  at.place(ws.groups_integers, n, hp.n_group * hp.o_rank);
  const std::uint64_t visible = round_up_bound(hp.context_length / 4 + 1);
  ws.score_floats = std::max(visible, std::min(n * visible, kMostScoreFloats));
  at.place(ws.scores, ws.score_floats);
  at.place(ws.chosen, n * hp.index_top_k);
  std::uint64_t parts = 0;
  for (const std::uint32_t ratio : {0u, 4u, 128u})
    parts =
        std::max<std::uint64_t>(parts, round_up_bound(parts_of(hp, hp.context_length - 1, ratio)));
  const std::uint64_t most = std::max<std::uint64_t>(1, kMostPartFloats / heads / parts);
  ws.part_heads = std::min(n, most) * parts * hp.n_head;
  at.place(ws.part_acc, ws.part_heads * hp.head_dim);
  at.place(ws.part_max, ws.part_heads);
  at.place(ws.part_sum, ws.part_heads);
  at.place(ws.router, n * hp.n_expert);
  at.place(ws.row_expert, n * hp.n_expert_used);
  at.place(ws.grouped.count, 1);
  at.place(ws.grouped.expert, hp.n_expert);
  at.place(ws.grouped.begin, hp.n_expert + 1);
  at.place(ws.grouped.entry_row, n * hp.n_expert_used);
  at.place(ws.grouped.row_entry, n * hp.n_expert_used);
  at.place(ws.grouped.row_weight, n * hp.n_expert_used);
  at.place(ws.hidden, entries * hp.expert_ffn);
  at.place(ws.hidden_integers, entries, hp.expert_ffn);
  at.place(ws.down, entries * e);
  if (!range.output) return;
  at.place(ws.head_x, kHeadRows, hp.n_embd);
  at.place(ws.logits, std::uint64_t{kHeadRows} * hp.n_vocab);
}

}  // namespace

CallShape CallShape::make(const HyperParams& hp, std::uint32_t rows, std::uint32_t wanted,
                          std::uint32_t last_position) {
  CallShape shape{rows, wanted};
  shape.parts_plain = round_up_bound(parts_of(hp, last_position, 0));
  shape.parts_4 = round_up_bound(parts_of(hp, last_position, 4));
  shape.parts_128 = round_up_bound(parts_of(hp, last_position, 128));
  const std::uint32_t visible = (last_position + 1) / 4;
  if (visible > hp.index_top_k) shape.most_visible = round_up_bound(visible);
  return shape;
}

Result<DeviceWorkspace> DeviceWorkspace::make(const HyperParams& hp, const LayerRange& range,
                                              std::uint32_t max_rows) {
  DeviceWorkspace ws;
  Layout size(nullptr);
  lay_out(size, hp, range, max_rows, ws);
  DS4_ASSIGN(ws.memory,
             device_buffer<std::byte>(size.end(), fmt::format("calls of up to {} rows", max_rows)));
  Layout place(ws.memory.data());
  lay_out(place, hp, range, max_rows, ws);
  return ws;
}

ForwardPass::ForwardPass(const HyperParams& hp, const LayerRange& range, Graph graph,
                         const SliceWeights& weights, const DeviceWorkspace& ws,
                         const double* frequencies, const std::uint16_t* iq2_grid)
    : hp_(hp),
      range_(range),
      weights_(weights),
      ws_(ws),
      frequencies_(frequencies),
      iq2_grid_(iq2_grid) {
  sizes_ = {hp.n_embd,
            hp.n_head,
            hp.head_dim,
            hp.rope_dim,
            hp.q_rank,
            hp.n_group,
            hp.o_rank,
            hp.window,
            hp.index_heads,
            hp.index_dim,
            hp.index_top_k,
            hp.n_expert,
            hp.n_expert_used,
            hp.expert_ffn,
            hp.n_vocab,
            hp.sinkhorn_iterations,
            hp.hc_eps,
            hp.rms_eps,
            hp.expert_weights_scale,
            graph == Graph::kOfficial ? 1u : 0u};
}

/// One layer of one call.
struct ForwardPass::Layer {
  Launcher& launcher;
  const CallShape& shape;
  const CallTables& tables;
  const LayerWeightsOnDevice& weights;
  std::uint32_t index;  // in the slice
};

void ForwardPass::run_layers(Launcher& launcher, const CallShape& shape,
                             const CallTables& tables) const {
  const std::uint32_t n = shape.rows;
  launcher.name = "angles";
  fill_angles(launcher, sizes_, tables.rows, n, frequencies_, ws_.angles);
  if (weights_.embedding) {
    launcher.name = "embedding";
    embed(launcher, sizes_, *weights_.embedding, tables.rows, n, ws_.streams, iq2_grid_);
  }
  Pending pending;
  for (std::uint32_t index = 0; index < weights_.layers.size(); ++index) {
    const LayerWeightsOnDevice& weights = weights_.layers[index];
    Layer layer{launcher, shape, tables, weights, index};
    launcher.name = "hyper-connection";
    enter_block(launcher, sizes_, weights.hc_attn, weights.attn_norm, pending, n, ws_.streams,
                ws_.mix, ws_.mix_logits, ws_.x);
    attention(layer);
    pending = {};
    pending.y = ws_.y;
    launcher.name = "hyper-connection";
    enter_block(launcher, sizes_, weights.hc_ffn, weights.ffn_norm, pending, n, ws_.streams,
                ws_.mix, ws_.mix_logits, ws_.x);
    pending = experts(layer);
  }
  launcher.name = "hyper-connection";
  leave_last_block(launcher, sizes_, pending, n, ws_.streams, ws_.mix);
}

void ForwardPass::attention(Layer& layer) const {
  const bool searching = layer.weights.has_index() && layer.shape.most_visible != 0;
  project_input(layer, searching);
  project_queries(layer, searching);
  if (searching) search(layer);
  attend_in_passes(layer);
  project_output(layer);
}

void ForwardPass::project_input(Layer& layer, bool searching) const {
  const LayerWeightsOnDevice& w = layer.weights;
  std::vector<Product> products;
  const auto add = [&](const DeviceMatrix& weights, float* y, std::uint32_t stride) {
    products.push_back({weights, ws_.x.halves, hp_.n_embd, y, stride, false, ws_.x.integers});
  };
  add(w.q_a, ws_.qr, hp_.q_rank);
  add(w.kv, ws_.kv, hp_.head_dim);
  if (w.ratio != 0) {
    add(w.compressor.kv, ws_.pool_kv, w.compressor.kv.rows);
    add(w.compressor.gate, ws_.pool_gate, w.compressor.gate.rows);
  }
  if (w.has_index()) {
    add(w.index_compressor.kv, ws_.index_pool_kv, w.index_compressor.kv.rows);
    add(w.index_compressor.gate, ws_.index_pool_gate, w.index_compressor.gate.rows);
    if (searching) add(w.index_proj, ws_.index_w, hp_.index_heads);
  }
  layer.launcher.name = "attention input products";
  run_products(layer.launcher, products, layer.shape.rows, iq2_grid_);

  AttentionInput input;
  input.layer = layer.index;
  input.ratio = w.ratio;
  input.qr = ws_.qr, input.q_norm = w.q_a_norm, input.qr_out = ws_.qr_half;
  input.qr_integers = ws_.qr_integers;
  input.kv = ws_.kv, input.kv_norm = w.kv_a_norm, input.kv_out = ws_.kv_half;
  input.main = {ws_.pool_kv, ws_.pool_gate, w.compressor.ape, w.compressor.norm};
  input.index = {ws_.index_pool_kv, ws_.index_pool_gate, w.index_compressor.ape,
                 w.index_compressor.norm};
  input.mix = {ws_.mix_logits, ws_.mix};
  layer.launcher.name = "norms and compressors";
  finish_input(layer.launcher, sizes_, input, layer.tables.rows, layer.tables.segments,
               layer.shape.rows, ws_.angles);
}

void ForwardPass::project_queries(Layer& layer, bool searching) const {
  const std::uint32_t index_width = hp_.index_heads * hp_.index_dim;
  const Product products[] = {{layer.weights.q_b, ws_.qr_half, hp_.q_rank, ws_.q,
                               hp_.n_head * hp_.head_dim, false, ws_.qr_integers},
                              {layer.weights.index_q_b, ws_.qr_half, hp_.q_rank, ws_.index_q,
                               index_width, false, ws_.qr_integers}};
  layer.launcher.name = "query products";
  run_products(layer.launcher, std::span(products).first(searching ? 2 : 1), layer.shape.rows,
               iq2_grid_);
  layer.launcher.name = "queries";
  finish_queries(layer.launcher, sizes_, layer.weights.ratio, layer.shape.rows, ws_.angles, ws_.q,
                 ws_.q_half, searching ? ws_.index_q : nullptr, ws_.index_w);
}

void ForwardPass::search(Layer& layer) const {
  const auto rows_at_once = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(layer.shape.rows, ws_.score_floats / layer.shape.most_visible));
  layer.launcher.name = "index search";
  for (std::uint32_t first = 0; first < layer.shape.rows; first += rows_at_once)
    search_index(layer.launcher, sizes_, layer.index, layer.weights.ratio, layer.tables.rows,
                 layer.tables.segments, first, std::min(rows_at_once, layer.shape.rows - first),
                 layer.shape.most_visible, ws_.index_q, ws_.index_w, ws_.scores, ws_.chosen);
}

void ForwardPass::attend_in_passes(Layer& layer) const {
  Attention attention;
  attention.layer = layer.index;
  attention.ratio = layer.weights.ratio;
  attention.has_index = layer.weights.has_index();
  attention.q = ws_.q_half;
  attention.kv = ws_.kv_half;
  attention.sinks = layer.weights.sinks;
  attention.chosen = ws_.chosen;
  attention.part_acc = ws_.part_acc;
  attention.part_max = ws_.part_max;
  attention.part_sum = ws_.part_sum;
  attention.parts = layer.shape.parts(layer.weights.ratio);
  attention.out = multiplies_integers(layer.weights.output_a.type) ? nullptr : ws_.heads;
  attention.integers = ws_.heads_integers;
  const std::uint32_t rows = layer.shape.rows;
  const auto rows_at_once =
      attends_at_once(sizes_, rows)
          ? rows
          : static_cast<std::uint32_t>(std::min<std::uint64_t>(
                rows, ws_.part_heads / (std::uint64_t{attention.parts} * hp_.n_head)));
  layer.launcher.name = "attention";
  for (std::uint32_t first = 0; first < rows; first += rows_at_once)
    attend(layer.launcher, sizes_, attention, layer.tables.rows, layer.tables.segments, first,
           std::min(rows_at_once, rows - first), rows, ws_.angles);
}

/// The heads' groups by themselves, then all of them. What lies between becomes integers at once
/// where few rows are computed, unless sums are needed as well.
void ForwardPass::project_output(Layer& layer) const {
  const DeviceMatrix &a = layer.weights.output_a, &b = layer.weights.output_b;
  const std::uint32_t n = layer.shape.rows, width = hp_.n_group * hp_.o_rank;
  const bool integers = multiplies_integers(b.type);
  const bool at_once =
      integers && n < kWideFrom && !has_minimums(b.type) && hp_.o_rank % kQuantColumns == 0;
  std::vector<Product> products;
  layer.launcher.name = "attention output products";
  for (std::uint32_t g = 0; g < hp_.n_group; ++g) {
    DeviceMatrix weights = a;
    weights.rows = hp_.o_rank;
    weights.data += std::size_t{g} * hp_.o_rank * a.row_bytes;
    Product product{weights,
                    ws_.heads + std::size_t{g} * a.cols,
                    hp_.n_head * hp_.head_dim,
                    at_once ? nullptr : ws_.groups + std::size_t{g} * hp_.o_rank,
                    width,
                    true,
                    ws_.heads_integers.from_column(g * a.cols)};
    if (at_once) product.y_integers = ws_.groups_integers.from_column(g * hp_.o_rank);
    products.push_back(product);
    if (products.size() < kMostProducts && g + 1 < hp_.n_group) continue;
    run_products(layer.launcher, products, n, iq2_grid_);
    products.clear();
  }
  if (integers && !at_once)
    quantise_rows(layer.launcher, ws_.groups, width, n, width, ws_.groups_integers);
  const Product down{b, ws_.groups, width, ws_.y, hp_.n_embd, false, ws_.groups_integers};
  run_products(layer.launcher, {&down, 1}, n, iq2_grid_);
}

Pending ForwardPass::experts(Layer& layer) const {
  const LayerWeightsOnDevice& w = layer.weights;
  const std::uint32_t n = layer.shape.rows;
  const Product router{w.router,     ws_.x.halves, hp_.n_embd,    ws_.router,
                       hp_.n_expert, false,        ws_.x.integers};
  layer.launcher.name = "router";
  run_products(layer.launcher, {&router, 1}, n, iq2_grid_);
  route(layer.launcher, sizes_, ws_.router, w.router_bias, w.token_experts, layer.tables.rows, n,
        ws_.row_expert, ws_.grouped, {ws_.mix_logits, ws_.mix});
  ExpertProducts products;
  products.gate = w.gate, products.up = w.up, products.down = w.down;
  products.shared_gate = w.shared_gate;
  products.shared_up = w.shared_up;
  products.shared_down = w.shared_down;
  products.groups = ws_.grouped;
  products.rows = n, products.used = hp_.n_expert_used, products.n_expert = hp_.n_expert;
  products.limit = w.swiglu_limit;
  products.x = ws_.x.halves, products.x_integers = ws_.x.integers;
  products.hidden = ws_.hidden, products.hidden_integers = ws_.hidden_integers;
  products.down_out = ws_.down;
  layer.launcher.name = "expert gate and up";
  run_gate_up(layer.launcher, products, iq2_grid_);
  if (n >= kWideFrom && wide_supports(products)) {
    const std::uint32_t entries = n * (hp_.n_expert_used + 1);
    quantise_rows(layer.launcher, ws_.hidden, hp_.expert_ffn, entries, hp_.expert_ffn,
                  ws_.hidden_integers);
  }
  layer.launcher.name = "expert down";
  run_down(layer.launcher, products, iq2_grid_);
  Pending pending;
  pending.down = ws_.down;
  pending.row_entry = ws_.grouped.row_entry;
  pending.row_weight = ws_.grouped.row_weight;
  return pending;
}

void ForwardPass::run_head(Launcher& launcher, const CallTables& tables, std::uint32_t first,
                           std::uint32_t n) const {
  launcher.name = "head";
  enter_head(launcher, sizes_, weights_.head->hc, weights_.head->norm, tables.wanted + first, n,
             ws_.streams, ws_.head_x);
  const Product output{
      weights_.head->output, ws_.head_x.halves, hp_.n_embd, ws_.logits, hp_.n_vocab, false,
      ws_.head_x.integers};
  run_products(launcher, {&output, 1}, n, iq2_grid_);
}

}  // namespace ds4::cuda
