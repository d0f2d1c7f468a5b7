// Attention in the order of a call's steps: what each row brings (its query, its raw row, its share
// of the compressed rows), then which compressed rows it sees, then attention over what it sees.
//
// The ring holds the rows before the call. The call's own raw rows stay in the workspace until
// every query has been answered, and enter the ring at the end: a chunk may be longer than the
// window.
#include <algorithm>
#include <cmath>

#include "engine/model/blocks.h"
#include "engine/model/compressor.h"
#include "engine/model/index_search.h"

namespace ds4 {
namespace {

using cpu::kKeyTile;

/// Channels of a compressor that one thread carries through a segment's tokens.
constexpr std::uint32_t kPoolChannels = 64;

std::uint32_t pieces_of(std::uint32_t channels) {
  return (channels + kPoolChannels - 1) / kPoolChannels;
}

class AttentionBlock {
 public:
  AttentionBlock(const Compute& compute, const Batch& batch, Workspace& ws,
                 const LayerWeights& layer, std::uint32_t index, std::uint32_t ratio)
      : c_(compute),
        hp_(compute.hp),
        batch_(batch),
        ws_(ws),
        layer_(layer),
        index_(index),
        ratio_(ratio),
        searching_(must_search()) {}

  void run() {
    project_input();
    finish_kv_and_pool();
    project_queries();
    finish_queries_and_pooled();
    if (searching_) search_index(c_, batch_, ws_, index_, ratio_);
    attend();
    remember_raw_rows();
    project_output();
  }

 private:
  void project_input();
  void finish_kv_and_pool();
  void finish_kv(std::uint32_t row);
  void pool(std::uint32_t piece);
  void project_queries();
  void finish_queries_and_pooled();
  void finish_query(std::uint32_t row);
  void finish_index_query(std::uint32_t row);
  void finish_pooled(std::uint32_t row);
  void attend();
  void attend_heads(std::uint32_t row, std::uint32_t first, std::uint32_t heads, unsigned thread);
  void remember_raw_rows();
  void project_output();

  /// Compressed rows that exist at a row's position.
  std::uint32_t visible(std::uint32_t row) const {
    return ratio_ == 0 ? 0 : (batch_.rows[row].position + 1) / ratio_;
  }
  bool has_index() const { return layer_.indexer.has_value(); }
  /// The indexer matters only where it must leave something out.
  bool must_search() const {
    if (!has_index()) return false;
    for (std::uint32_t row = 0; row < batch_.n(); ++row)
      if (visible(row) > hp_.index_top_k) return true;
    return false;
  }
  const float* angles(std::uint32_t row) const {
    return (ratio_ == 0 ? ws_.plain_angles : ws_.compressed_angles).at(row);
  }
  LayerCache& cache(const BatchSegment& segment) const { return segment.cache->layer(index_); }
  Compressor compressor(std::uint32_t dim) const { return {c_.ops, dim, ratio_}; }
  void round_kv(float* row) const {
    if (c_.official()) c_.ops.round_fp8(row, hp_.head_dim - hp_.rope_dim);
  }
  void round_index(float* row) const {
    if (!c_.official()) return;
    c_.ops.hadamard(row, hp_.index_dim);
    c_.ops.round_fp4(row, hp_.index_dim);
  }
  void add_product(const cpu::Matrix& weights, const cpu::Activations& x, const Rows& y) {
    ws_.products.push_back({weights, &x, {}, y.data(), weights.rows});
  }

  const Compute& c_;
  const HyperParams& hp_;
  const Batch& batch_;
  Workspace& ws_;
  const LayerWeights& layer_;
  const std::uint32_t index_;
  const std::uint32_t ratio_;
  const bool searching_;
};

void AttentionBlock::project_input() {
  ws_.products.clear();
  add_product(layer_.q_a, ws_.act_x, ws_.qr);
  add_product(layer_.kv, ws_.act_x, ws_.kv);
  if (layer_.compressor) {
    add_product(layer_.compressor->kv, ws_.act_x, ws_.pool_kv);
    add_product(layer_.compressor->gate, ws_.act_x, ws_.pool_gate);
  }
  if (has_index()) {
    add_product(layer_.indexer->compressor.kv, ws_.act_x, ws_.index_pool_kv);
    add_product(layer_.indexer->compressor.gate, ws_.act_x, ws_.index_pool_gate);
    if (searching_) add_product(layer_.indexer->proj, ws_.act_x, ws_.index_w);
  }
  c_.run(ws_.products);
}

void AttentionBlock::finish_kv_and_pool() {
  constexpr std::uint32_t kRowsOfItem = 8;
  const std::uint32_t of_segment =
      (ratio_ != 0 ? pieces_of(hp_.head_dim) : 0) + (has_index() ? pieces_of(hp_.index_dim) : 0);
  const auto pieces = of_segment * static_cast<std::uint32_t>(batch_.segments.size());
  const std::uint32_t items = pieces + (batch_.n() + kRowsOfItem - 1) / kRowsOfItem;
  const std::size_t grain = batch_.n() < kRowsOfItem ? items : 1;  // few rows: wake nobody
  c_.pool.parallel_for(items, grain, [&](std::size_t begin, std::size_t end, unsigned) {
    for (auto item = static_cast<std::uint32_t>(begin); item < end; ++item) {
      if (item < pieces) {
        pool(item);
        continue;
      }
      const std::uint32_t first = (item - pieces) * kRowsOfItem;
      const std::uint32_t last = std::min(first + kRowsOfItem, batch_.n());
      for (std::uint32_t row = first; row < last; ++row) finish_kv(row);
    }
  });
}

void AttentionBlock::finish_kv(std::uint32_t row) {
  float* qr = ws_.qr.at(row);
  c_.ops.rms_norm(qr, layer_.q_a_norm.data(), hp_.q_rank, hp_.rms_eps, qr);
  float* kv = ws_.kv.at(row);
  c_.ops.rms_norm(kv, layer_.kv_a_norm.data(), hp_.head_dim, hp_.rms_eps, kv);
  Rope::turn(kv, hp_.head_dim, angles(row), hp_.rope_dim);
  round_kv(kv);
}

/// One piece: some channels of one of the compressors, over all tokens of one segment.
void AttentionBlock::pool(std::uint32_t piece) {
  const std::uint32_t of_main = pieces_of(hp_.head_dim);
  const std::uint32_t of_segment = of_main + (has_index() ? pieces_of(hp_.index_dim) : 0);
  const BatchSegment& segment = batch_.segments[piece / of_segment];
  const std::uint32_t part = piece % of_segment;
  const bool main = part < of_main;
  const Compressor pooler = compressor(main ? hp_.head_dim : hp_.index_dim);
  const CompressorWeights& weights = main ? *layer_.compressor : layer_.indexer->compressor;
  const Rows& kv = main ? ws_.pool_kv : ws_.index_pool_kv;
  const Rows& gate = main ? ws_.pool_gate : ws_.index_pool_gate;
  const Rows& rows = main ? ws_.pooled : ws_.index_pooled;
  const cpu::SoftmaxSums& sums = main ? cache(segment).sums : cache(segment).index_sums;
  const std::size_t first = std::size_t{segment.first_row} * pooler.width();
  const std::uint32_t begin = (main ? part : part - of_main) * kPoolChannels;
  const std::uint32_t end = std::min(begin + kPoolChannels, pooler.dim);
  pooler.advance(sums, segment.first_position, segment.count, kv.data() + first,
                 gate.data() + first, weights.ape.data(), begin, end, rows.at(segment.first_row));
}

void AttentionBlock::project_queries() {
  ws_.act_qr.prepare(c_.pool, c_.isa, ws_.qr.data(), batch_.n(), hp_.q_rank, ws_.qr.width());
  ws_.products.clear();
  add_product(layer_.q_b, ws_.act_qr, ws_.q);
  if (searching_) add_product(layer_.indexer->q_b, ws_.act_qr, ws_.index_q);
  c_.run(ws_.products);
}

void AttentionBlock::finish_queries_and_pooled() {
  c_.for_rows(batch_.n(), ws_.q.width(), [&](std::uint32_t row) {
    finish_query(row);
    if (searching_) finish_index_query(row);
    if (ratio_ != 0 && compressor(0).ends_block(batch_.rows[row].position)) finish_pooled(row);
  });
}

void AttentionBlock::finish_query(std::uint32_t row) {
  for (std::uint32_t head = 0; head < hp_.n_head; ++head) {
    float* q = ws_.q.at(row) + std::size_t{head} * hp_.head_dim;
    c_.ops.rms_norm(q, nullptr, hp_.head_dim, hp_.rms_eps, q);
    Rope::turn(q, hp_.head_dim, angles(row), hp_.rope_dim);
  }
}

void AttentionBlock::finish_index_query(std::uint32_t row) {
  const float scale =
      1.0f / std::sqrt(static_cast<float>(hp_.index_heads) * static_cast<float>(hp_.index_dim));
  const std::size_t head_blocks = hp_.index_dim / cpu::kFp4Block;
  auto* blocks = ws_.index_q_blocks.data() + std::size_t{row} * hp_.index_heads * head_blocks;
  for (std::uint32_t head = 0; head < hp_.index_heads; ++head) {
    float* q = ws_.index_q.at(row) + std::size_t{head} * hp_.index_dim;
    Rope::turn(q, hp_.index_dim, angles(row), hp_.rope_dim);
    round_index(q);
    if (c_.official()) c_.ops.index_fp4.code_query(q, hp_.index_dim, blocks + head * head_blocks);
    ws_.index_w.at(row)[head] *= scale;
  }
}

/// Norms and turns the rows that a block's last token completed, and caches them.
void AttentionBlock::finish_pooled(std::uint32_t row) {
  const std::uint32_t block = batch_.rows[row].position / ratio_;
  const float* angles = (ratio_ == 4 ? ws_.block4_angles : ws_.block128_angles).at(row);
  LayerCache& to = cache(batch_.segment_of(row));
  float* pooled = ws_.pooled.at(row);
  c_.ops.rms_norm(pooled, layer_.compressor->norm.data(), hp_.head_dim, hp_.rms_eps, pooled);
  Rope::turn(pooled, hp_.head_dim, angles, hp_.rope_dim);
  round_kv(pooled);
  to.compressed.put(block, pooled);
  if (!has_index()) return;
  float* key = ws_.index_pooled.at(row);
  c_.ops.rms_norm(key, layer_.indexer->compressor.norm.data(), hp_.index_dim, hp_.rms_eps, key);
  Rope::turn(key, hp_.index_dim, angles, hp_.rope_dim);
  round_index(key);
  to.index.put(block, key);
}

void AttentionBlock::attend() {
  const std::uint32_t n = batch_.n();
  const auto wanted_items = static_cast<std::uint32_t>(4 * c_.pool.size());
  // Many rows: one item per row. Few: some heads of a row each, in whole tiles of heads.
  const std::uint32_t parts = std::max(1u, std::min(hp_.n_head / 4, wanted_items / n));
  const std::uint32_t heads = (hp_.n_head + parts - 1) / parts;
  c_.pool.parallel_for(std::size_t{n} * parts, 1,
                       [&](std::size_t begin, std::size_t end, unsigned thread) {
                         for (std::size_t item = begin; item < end; ++item) {
                           const auto row = static_cast<std::uint32_t>(item / parts);
                           const auto first = static_cast<std::uint32_t>(item % parts) * heads;
                           if (first >= hp_.n_head) continue;
                           attend_heads(row, first, std::min(heads, hp_.n_head - first), thread);
                         }
                       });
}

/// Some heads of one row, over its raw rows in order of position and then its compressed rows.
void AttentionBlock::attend_heads(std::uint32_t row, std::uint32_t first_head, std::uint32_t heads,
                                  unsigned thread) {
  const BatchSegment& segment = batch_.segment_of(row);
  const LayerCache& from = cache(segment);
  const std::uint32_t position = batch_.rows[row].position;
  const std::uint32_t raw_first = position + 1 - std::min(position + 1, hp_.window);
  const std::uint32_t raw_count = position + 1 - raw_first;
  const bool all = !has_index() || visible(row) <= hp_.index_top_k;
  const std::uint32_t* chosen = ws_.chosen.data() + std::size_t{row} * hp_.index_top_k;
  const std::uint32_t total = raw_count + (all ? visible(row) : ws_.chosen_count[row]);
  const auto key = [&](std::uint32_t i, float* scratch) {
    if (i >= raw_count) {
      const std::uint32_t b = i - raw_count;
      return from.compressed.get(all ? b : chosen[b], scratch);
    }
    const std::uint32_t at = raw_first + i;
    if (at < segment.first_position) return from.raw.get(at % segment.cache->ring_rows(), scratch);
    return static_cast<const float*>(ws_.kv.at(segment.first_row + (at - segment.first_position)));
  };

  const std::size_t offset = std::size_t{first_head} * hp_.head_dim;
  const float* keys[kKeyTile];
  cpu::AttentionTile tile;
  tile.q = ws_.q.at(row) + offset;
  tile.heads = heads;
  tile.dim = hp_.head_dim;
  tile.keys = keys;
  tile.scale = 1.0f / std::sqrt(static_cast<float>(hp_.head_dim));
  tile.max = ws_.head_max.at(row) + first_head;
  tile.sum = ws_.head_sum.at(row) + first_head;
  tile.acc = ws_.heads.at(row) + offset;
  std::copy_n(layer_.sinks.data() + first_head, heads, tile.max);
  std::fill_n(tile.sum, heads, 1.0f);
  std::fill_n(tile.acc, heads * tile.dim, 0.0f);
  for (std::uint32_t first = 0; first < total; first += kKeyTile) {
    tile.count = std::min<std::size_t>(kKeyTile, total - first);
    for (std::uint32_t k = 0; k < tile.count; ++k)
      keys[k] = key(first + k, ws_.tile_rows.at(thread) + k * tile.dim);
    cpu::fill_key_group(keys, tile.count);
    c_.ops.attention.attend(tile);
  }
  c_.ops.attention.finish(tile);
  for (std::uint32_t head = 0; head < heads; ++head)
    Rope::turn_back(tile.acc + head * tile.dim, hp_.head_dim, angles(row), hp_.rope_dim);
}

/// Those of the call's raw rows that later calls can still see.
void AttentionBlock::remember_raw_rows() {
  c_.for_rows(batch_.n(), hp_.head_dim, [&](std::uint32_t row) {
    const BatchSegment& segment = batch_.segment_of(row);
    const std::uint32_t ring_rows = segment.cache->ring_rows();
    const std::uint32_t behind = segment.first_row + segment.count - row;
    if (behind <= ring_rows)
      cache(segment).raw.put(batch_.rows[row].position % ring_rows, ws_.kv.at(row));
  });
}

void AttentionBlock::project_output() {
  const std::uint32_t n = batch_.n(), groups = hp_.n_group, rank = hp_.o_rank;
  const std::uint32_t cols = layer_.output_a.cols;
  ws_.act_heads.prepare(c_.pool, c_.isa, ws_.heads.data(), n * groups, cols, cols);
  ws_.products.clear();
  for (std::uint32_t g = 0; g < groups; ++g) {
    const std::span rows(ws_.group_rows.data() + g * (ws_.group_rows.size() / groups), n);
    ws_.products.push_back({layer_.output_a.row_range(g * rank, rank), &ws_.act_heads, rows,
                            ws_.groups.data() + g * rank, ws_.groups.width()});
  }
  c_.run(ws_.products);
  ws_.act_groups.prepare(c_.pool, c_.isa, ws_.groups.data(), n, groups * rank, ws_.groups.width());
  const cpu::Product down{layer_.output_b, &ws_.act_groups, {}, ws_.y.data(), ws_.y.width()};
  c_.run({&down, 1});
}

}  // namespace

void attention_block(const Compute& compute, const Batch& batch, Workspace& ws,
                     const LayerWeights& layer, std::uint32_t index, std::uint32_t ratio) {
  AttentionBlock(compute, batch, ws, layer, index, ratio).run();
}

}  // namespace ds4
