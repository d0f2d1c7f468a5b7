#include "engine/model/index_search.h"

#include <algorithm>

namespace ds4 {
namespace {

using cpu::kKeyTile;

/// Scores the index rows [begin, end) for one query row and keeps the best.
std::span<Candidate> best_of(const Compute& c, const Batch& batch, Workspace& ws,
                             std::uint32_t index, std::uint32_t row, std::uint32_t begin,
                             std::uint32_t end, unsigned thread) {
  const HyperParams& hp = c.hp;
  const RowStore& store = batch.segment_of(row).cache->layer(index).index;
  const std::size_t capacity = std::size_t{2} * hp.index_top_k;
  TopK best({ws.thread_candidates.data() + thread * capacity, capacity}, hp.index_top_k);
  const float* keys[kKeyTile];
  float scores[kKeyTile];
  cpu::IndexTile tile{
      ws.index_q.at(row), ws.index_w.at(row), hp.index_heads, hp.index_dim, keys, 0, scores};
  for (std::uint32_t first = begin; first < end; first += kKeyTile) {
    tile.count = std::min<std::size_t>(kKeyTile, end - first);
    for (std::size_t k = 0; k < tile.count; ++k)
      keys[k] = store.get(first + k, ws.tile_rows.at(thread) + k * hp.index_dim);
    cpu::fill_key_group(keys, tile.count);
    c.ops.attention.index(tile);
    for (std::uint32_t k = 0; k < tile.count; ++k) best.add(scores[k], first + k);
  }
  return best.finish();
}

/// Joins the parts' candidates of one row into its ascending list.
void join(const Compute& c, Workspace& ws, std::uint32_t row, std::uint32_t parts) {
  const std::uint32_t k = c.hp.index_top_k;
  Candidate* all = ws.candidates.data() + std::size_t{row} * parts * k;
  std::size_t count = 0;
  for (std::uint32_t part = 0; part < parts; ++part) {
    const Candidate* from = all + std::size_t{part} * k;
    std::copy_n(from, ws.candidate_count[row * parts + part], all + count);
    count += ws.candidate_count[row * parts + part];
  }
  std::uint32_t* chosen = ws.chosen.data() + std::size_t{row} * k;
  const auto best = keep_best({all, count}, k);
  for (std::size_t i = 0; i < best.size(); ++i) chosen[i] = best[i].index;
  std::sort(chosen, chosen + best.size());
  ws.chosen_count[row] = static_cast<std::uint32_t>(best.size());
}

}  // namespace

void search_index(const Compute& c, const Batch& batch, Workspace& ws, std::uint32_t index,
                  std::uint32_t ratio) {
  const std::uint32_t n = batch.n();
  const auto threads = static_cast<std::uint32_t>(c.pool.size());
  // A single row's search is cut into parts; many rows keep the threads busy whole.
  const std::uint32_t parts = n < threads ? (threads + n - 1) / n : 1;
  const auto visible = [&](std::uint32_t row) { return (batch.rows[row].position + 1) / ratio; };
  c.pool.parallel_for(
      std::size_t{n} * parts, 1, [&](std::size_t begin, std::size_t end, unsigned thread) {
        for (std::size_t item = begin; item < end; ++item) {
          const auto row = static_cast<std::uint32_t>(item / parts);
          if (visible(row) <= c.hp.index_top_k) continue;
          const std::uint64_t part = item % parts, all = visible(row);
          const auto best =
              best_of(c, batch, ws, index, row, static_cast<std::uint32_t>(all * part / parts),
                      static_cast<std::uint32_t>(all * (part + 1) / parts), thread);
          std::copy(best.begin(), best.end(), ws.candidates.begin() + item * c.hp.index_top_k);
          ws.candidate_count[item] = static_cast<std::uint32_t>(best.size());
        }
      });
  c.for_rows(n, std::size_t{16} * c.hp.index_top_k, [&](std::uint32_t row) {
    if (visible(row) > c.hp.index_top_k) join(c, ws, row, parts);
  });
}

}  // namespace ds4
