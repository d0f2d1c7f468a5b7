#pragma once
// The rows of one forward() call, and the memory it computes in.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "engine/cpu/linear.h"
#include "engine/cpu/ops.h"
#include "engine/model/hyper_connection.h"
#include "engine/model/hyper_params.h"
#include "engine/model/kv_cache.h"
#include "engine/model/rope.h"
#include "engine/model/top_k.h"

namespace ds4 {

/// Rows whose index searches read their session's keys together.
inline constexpr std::uint32_t kSearchRows = 4;

/// Consecutive rows of one session.
struct BatchSegment {
  SessionCache* cache = nullptr;
  std::uint32_t first_row = 0;
  std::uint32_t first_position = 0;
  std::uint32_t count = 0;
};

struct BatchRow {
  std::uint32_t segment = 0;
  std::uint32_t position = 0;
  std::int32_t token = 0;
};

/// What is computed. Capacities are reserved once; filling allocates nothing.
struct Batch {
  std::vector<BatchSegment> segments;
  std::vector<BatchRow> rows;
  std::vector<std::uint32_t> wanted;  // rows whose logits are wanted, ascending

  explicit Batch(std::uint32_t max_rows);
  void clear();
  std::uint32_t n() const { return static_cast<std::uint32_t>(rows.size()); }
  const BatchSegment& segment_of(std::uint32_t row) const { return segments[rows[row].segment]; }
};

/// Uninitialised floats on cache-line boundaries.
class FloatBuffer {
 public:
  FloatBuffer() = default;
  explicit FloatBuffer(std::size_t count)
      : data_(static_cast<float*>(::operator new[](count * sizeof(float), kAlign))) {}
  float* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Delete {
    void operator()(float* p) const { ::operator delete[](p, kAlign); }
  };
  std::unique_ptr<float[], Delete> data_;
};

/// `row_count` rows of `width` floats.
class Rows {
 public:
  Rows(std::size_t row_count, std::size_t width) : width_(width), buffer_(row_count * width) {}
  float* at(std::size_t row) const { return buffer_.data() + row * width_; }
  float* data() const { return buffer_.data(); }
  std::size_t width() const { return width_; }

 private:
  std::size_t width_;
  FloatBuffer buffer_;
};

/// How this slice computes; shared by every block.
struct Compute {
  const HyperParams& hp;
  Graph graph;
  cpu::Precision precision;
  cpu::Isa isa;
  const cpu::Ops& ops;
  cpu::ThreadPool& pool;
  Rope plain_rope;
  Rope compressed_rope;

  const Rope& rope(std::uint32_t ratio) const { return ratio == 0 ? plain_rope : compressed_rope; }
  bool official() const { return graph == Graph::kOfficial; }
  void run(std::span<const cpu::Product> products) const {
    cpu::run_products(pool, isa, precision, products);
  }

  /// body(row) for every row, on all threads where there is enough to do: `width` is about how many
  /// floats a row touches.
  template <typename F>
  void for_rows(std::size_t n, std::size_t width, const F& body) const {
    constexpr std::size_t kFloatsWorthAThread = 8192;
    const std::size_t grain =
        std::max(1 + n / (std::size_t{8} * pool.size()), kFloatsWorthAThread / width);
    pool.parallel_for(n, grain, [&](std::size_t begin, std::size_t end, unsigned) {
      for (std::size_t i = begin; i < end; ++i) body(static_cast<std::uint32_t>(i));
    });
  }
};

/// Every intermediate value of a call, sized once for max_rows. N = rows of the call.
struct Workspace {
  Workspace(const HyperParams& hp, cpu::Precision precision, std::uint32_t max_rows,
            unsigned threads);

  Rows streams;                // {N, 4, E}
  Rows stream_outputs;         // {N, 24} (or 4): hc.fn of the streams
  std::vector<StreamMix> mix;  // {N}
  Rows x;                      // {N, E} a block's input, normed
  Rows y;                      // {N, E} its output
  Rows plain_angles;           // {N, R}
  Rows compressed_angles;      // {N, R}
  Rows block4_angles;          // {N, R} of the first token of the block that ends at a row
  Rows block128_angles;        // {N, R}
  // Attention.
  Rows qr;                  // {N, Q}
  Rows q;                   // {N, H, D}
  Rows kv;                  // {N, D} the call's own raw rows
  Rows pool_kv, pool_gate;  // {N, 2D}
  Rows pooled;              // {N, D} at rows that end a block
  Rows heads;               // {N, H, D} the heads' outputs
  Rows head_max, head_sum;  // {N, H}
  Rows tile_rows;           // {threads, kKeyTile, max(D, dim)}: rows decoded from the cache
  Rows groups;              // {N, G, O}
  std::vector<std::uint32_t> group_rows;  // {G, N}: r * G + g
  // Indexer.
  Rows index_q;                                    // {N, heads, dim}
  Rows index_w;                                    // {N, heads}
  std::vector<cpu::Fp4QueryBlock> index_q_blocks;  // {N, heads, dim / 32} index_q as codes
  Rows index_pool_kv, index_pool_gate;             // {N, 2 * dim}
  Rows index_pooled;                               // {N, dim}
  std::vector<Candidate> thread_candidates;        // {threads, kSearchRows, 2 * top_k}
  std::vector<Candidate> candidates;               // {rows * parts, top_k}
  std::vector<std::uint32_t> candidate_count;      // {rows * parts}
  std::vector<std::uint32_t> chosen;               // {N, top_k} ascending
  std::vector<std::uint32_t> chosen_count;         // {N}
  // Experts. An entry is one (row, expert) pair; entries of one expert are neighbours.
  Rows router;                              // {N, experts}
  std::vector<std::uint32_t> row_expert;    // {N, used}
  std::vector<float> row_weight;            // {N, used}
  std::vector<std::uint32_t> row_entry;     // {N, used}
  std::vector<std::uint32_t> entry_row;     // {N * used}
  std::vector<std::uint32_t> expert_begin;  // {experts + 1}
  std::vector<std::uint32_t> counting;      // 0, 1, 2, ...
  Rows gate, up;                            // {N * (used + 1), F}; shared experts stand last
  Rows down;                                // {N * (used + 1), E}

  cpu::Activations act_streams, act_x, act_qr, act_heads, act_groups, act_hidden;
  std::vector<cpu::Product> products;
};

}  // namespace ds4
