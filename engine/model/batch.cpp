#include "engine/model/batch.h"

#include <algorithm>
#include <numeric>

namespace ds4 {

Batch::Batch(std::uint32_t max_rows) {
  segments.reserve(max_rows);
  rows.reserve(max_rows);
  wanted.reserve(max_rows);
}

void Batch::clear() {
  segments.clear();
  rows.clear();
  wanted.clear();
}

using cpu::Precision;

Workspace::Workspace(const HyperParams& hp, Precision precision, std::uint32_t n, unsigned threads)
    : streams(n, std::size_t{hp.n_streams} * hp.n_embd),
      stream_outputs(n, kMixOutputs),
      mix(n),
      x(n, hp.n_embd),
      y(n, hp.n_embd),
      plain_angles(n, hp.rope_dim),
      compressed_angles(n, hp.rope_dim),
      block4_angles(n, hp.rope_dim),
      block128_angles(n, hp.rope_dim),
      qr(n, hp.q_rank),
      q(n, std::size_t{hp.n_head} * hp.head_dim),
      kv(n, hp.head_dim),
      pool_kv(n, 2 * std::size_t{hp.head_dim}),
      pool_gate(n, 2 * std::size_t{hp.head_dim}),
      pooled(n, hp.head_dim),
      heads(n, std::size_t{hp.n_head} * hp.head_dim),
      head_max(n, hp.n_head),
      head_sum(n, hp.n_head),
      tile_rows(threads, cpu::kKeyTile * std::size_t{std::max(hp.head_dim, hp.index_dim)}),
      groups(n, std::size_t{hp.n_group} * hp.o_rank),
      group_rows(std::size_t{n} * hp.n_group),
      index_q(n, std::size_t{hp.index_heads} * hp.index_dim),
      index_w(n, hp.index_heads),
      index_q_blocks(std::size_t{n} * hp.index_heads * (hp.index_dim / cpu::kFp4Block)),
      index_pool_kv(n, 2 * std::size_t{hp.index_dim}),
      index_pool_gate(n, 2 * std::size_t{hp.index_dim}),
      index_pooled(n, hp.index_dim),
      thread_candidates(std::size_t{2} * hp.index_top_k * kSearchRows * threads),
      candidates(std::size_t{std::max(n, 2 * threads)} * hp.index_top_k),
      candidate_count(std::max(n, 2 * threads)),
      chosen(std::size_t{n} * hp.index_top_k),
      chosen_count(n),
      router(n, hp.n_expert),
      row_expert(std::size_t{n} * hp.n_expert_used),
      row_weight(std::size_t{n} * hp.n_expert_used),
      row_entry(std::size_t{n} * hp.n_expert_used),
      entry_row(std::size_t{n} * hp.n_expert_used),
      expert_begin(hp.n_expert + 1),
      counting(std::size_t{n} * (hp.n_expert_used + 1)),
      gate(std::size_t{n} * (hp.n_expert_used + 1), hp.expert_ffn),
      up(std::size_t{n} * (hp.n_expert_used + 1), hp.expert_ffn),
      down(std::size_t{n} * (hp.n_expert_used + 1), hp.n_embd),
      // The streams only meet hyper-connections, whose few outputs steer everything: exact.
      act_streams(n, hp.n_streams * hp.n_embd, Precision::kExact),
      act_x(n, hp.n_embd, precision),
      act_qr(n, hp.q_rank, precision),
      act_heads(n, hp.n_head * hp.head_dim, precision),
      act_groups(n, hp.n_group * hp.o_rank, precision),
      act_hidden(n * (hp.n_expert_used + 1), hp.expert_ffn, precision) {
  for (std::uint32_t g = 0; g < hp.n_group; ++g)
    for (std::uint32_t row = 0; row < n; ++row)
      group_rows[std::size_t{g} * n + row] = row * hp.n_group + g;
  std::iota(counting.begin(), counting.end(), 0u);
  products.reserve(std::max<std::size_t>(2 * std::size_t{hp.n_expert} + 2, hp.n_group));
}

}  // namespace ds4
