#include "engine/model/index_search.h"

#include <algorithm>

namespace ds4 {
namespace {

using cpu::kKeyTile;

/// A tile of a session's index keys, made ready once and scored for several rows.
class KeyTile {
 public:
  KeyTile(const Compute& c, const Workspace& ws, const RowStore& store, unsigned thread)
      : c_(c), ws_(ws), store_(store), memory_(ws.tile_rows.at(thread)) {}

  void load(std::uint32_t first, std::size_t count) {
    if (c_.official()) {
      c_.ops.index_fp4.spread(store_.fp4(first), count, fp4());
      return;
    }
    for (std::size_t k = 0; k < count; ++k)
      floats_[k] = store_.get(first + k, memory_ + k * c_.hp.index_dim);
    cpu::fill_key_group(floats_, count);
  }

  /// Scores the first `count` keys, {kKeyTile}.
  void score(std::uint32_t row, std::size_t count, float* scores) const {
    const std::size_t heads = c_.hp.index_heads, dim = c_.hp.index_dim;
    const float* weights = ws_.index_w.at(row);
    if (c_.official()) {
      const auto* q = ws_.index_q_blocks.data() + row * heads * (dim / cpu::kFp4Block);
      c_.ops.index_fp4.score({q, weights, heads, dim, fp4(), count, scores});
    } else {
      c_.ops.attention.index({ws_.index_q.at(row), weights, heads, dim, floats_, count, scores});
    }
  }

 private:
  cpu::Fp4Keys fp4() const { return cpu::Fp4Keys::in(memory_, c_.hp.index_dim); }

  const Compute& c_;
  const Workspace& ws_;
  const RowStore& store_;
  float* memory_;
  const float* floats_[kKeyTile];
};

/// How a call's search is cut into pieces: `together` rows at a time, which share their keys'
/// tiles; where there are fewer rows than threads, single rows and `parts` of what they see.
struct Cut {
  std::uint32_t together = 1, parts = 1;

  Cut(std::uint32_t rows, std::uint32_t threads)
      : together(std::clamp(rows / threads, 1u, kSearchRows)),
        parts(rows < threads ? (threads + rows - 1) / rows : 1) {}
};

class IndexSearch {
 public:
  IndexSearch(const Compute& c, const Batch& batch, Workspace& ws, std::uint32_t index,
              std::uint32_t ratio)
      : c_(c),
        batch_(batch),
        ws_(ws),
        index_(index),
        ratio_(ratio),
        cut_(batch.n(), static_cast<std::uint32_t>(c.pool.size())) {}

  void run() {
    const std::uint32_t n = batch_.n(), groups = (n + cut_.together - 1) / cut_.together;
    c_.pool.parallel_for(std::size_t{groups} * cut_.parts, 1,
                         [&](std::size_t begin, std::size_t end, unsigned thread) {
                           for (std::size_t item = begin; item < end; ++item) {
                             const auto group = static_cast<std::uint32_t>(item / cut_.parts);
                             const auto part = static_cast<std::uint32_t>(item % cut_.parts);
                             scan_group(group, part, thread);
                           }
                         });
    c_.for_rows(n, std::size_t{16} * c_.hp.index_top_k, [&](std::uint32_t row) {
      if (must_choose(row)) join(row);
    });
  }

 private:
  std::uint32_t visible(std::uint32_t row) const {
    return (batch_.rows[row].position + 1) / ratio_;
  }
  bool must_choose(std::uint32_t row) const { return visible(row) > c_.hp.index_top_k; }
  /// The first key of a part, or the last part's end.
  std::uint32_t part_begin(std::uint32_t row, std::uint32_t part) const {
    return static_cast<std::uint32_t>(std::uint64_t{visible(row)} * part / cut_.parts);
  }

  /// Scans for the group's rows, those of one session at a time.
  void scan_group(std::uint32_t group, std::uint32_t part, unsigned thread) {
    const std::uint32_t last = std::min((group + 1) * cut_.together, batch_.n());
    for (std::uint32_t row = group * cut_.together; row < last;) {
      std::uint32_t end = row + 1;
      while (end < last && batch_.rows[end].segment == batch_.rows[row].segment) ++end;
      while (row < end && !must_choose(row)) ++row;
      if (row < end) scan(row, end, part, thread);
      row = end;
    }
  }

  /// Scores a part of what rows [first_row, end_row) of one session see and keeps each row's best.
  void scan(std::uint32_t first_row, std::uint32_t end_row, std::uint32_t part, unsigned thread) {
    const std::uint32_t k = c_.hp.index_top_k;
    const std::uint32_t end = part_begin(end_row - 1, part + 1);
    KeyTile tile(c_, ws_, batch_.segment_of(first_row).cache->layer(index_).index, thread);
    TopK best[kSearchRows];
    for (std::uint32_t row = first_row; row < end_row; ++row) {
      const std::size_t at = std::size_t{thread} * kSearchRows + (row - first_row);
      best[row - first_row] = TopK({ws_.thread_candidates.data() + at * 2 * k, 2 * k}, k);
    }
    for (std::uint32_t first = part_begin(first_row, part); first < end; first += kKeyTile) {
      tile.load(first, std::min<std::size_t>(kKeyTile, end - first));
      for (std::uint32_t row = first_row; row < end_row; ++row) {
        const std::uint32_t row_end = part_begin(row, part + 1);
        if (row_end <= first) continue;
        const std::size_t count = std::min<std::size_t>(kKeyTile, row_end - first);
        float scores[kKeyTile];
        tile.score(row, count, scores);
        best[row - first_row].add({scores, count}, first);
      }
    }
    for (std::uint32_t row = first_row; row < end_row; ++row) {
      const auto found = best[row - first_row].finish();
      const std::size_t item = std::size_t{row} * cut_.parts + part;
      std::copy(found.begin(), found.end(), ws_.candidates.data() + item * k);
      ws_.candidate_count[item] = static_cast<std::uint32_t>(found.size());
    }
  }

  /// Joins the parts' candidates of one row into its ascending list.
  void join(std::uint32_t row) {
    const std::uint32_t k = c_.hp.index_top_k, parts = cut_.parts;
    Candidate* all = ws_.candidates.data() + std::size_t{row} * parts * k;
    std::size_t count = 0;
    for (std::uint32_t part = 0; part < parts; ++part) {
      const Candidate* from = all + std::size_t{part} * k;
      std::copy_n(from, ws_.candidate_count[row * parts + part], all + count);
      count += ws_.candidate_count[row * parts + part];
    }
    std::uint32_t* chosen = ws_.chosen.data() + std::size_t{row} * k;
    const auto best = keep_best({all, count}, k);
    for (std::size_t i = 0; i < best.size(); ++i) chosen[i] = best[i].index;
    std::sort(chosen, chosen + best.size());
    ws_.chosen_count[row] = static_cast<std::uint32_t>(best.size());
  }

  const Compute& c_;
  const Batch& batch_;
  Workspace& ws_;
  const std::uint32_t index_;
  const std::uint32_t ratio_;
  const Cut cut_;
};

}  // namespace

void search_index(const Compute& c, const Batch& batch, Workspace& ws, std::uint32_t index,
                  std::uint32_t ratio) {
  IndexSearch(c, batch, ws, index, ratio).run();
}

}  // namespace ds4
