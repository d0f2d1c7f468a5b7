// Experts: every row goes to a few of them, and every expert's weights are read once per call, for
// all rows that chose it. An expert's outputs are kept per (row, expert) entry and added up per row
// in the order in which the row chose, so a row's sum does not depend on its companions.
#include <cmath>
#include <cstring>

#include "engine/model/blocks.h"

namespace ds4 {
namespace {

float softplus(float x) {
  return x > 20.0f ? x : std::log1p(std::exp(x));
}

/// The `used` largest of p + bias, best first, ties to the lower expert.
void choose_best(const float* p, std::span<const float> bias, std::uint32_t n, std::uint32_t used,
                 std::uint32_t* chosen) {
  const auto score = [&](std::uint32_t i) { return bias.empty() ? p[i] : p[i] + bias[i]; };
  for (std::uint32_t slot = 0; slot < used; ++slot) {
    std::uint32_t best = n;
    for (std::uint32_t i = 0; i < n; ++i) {
      if (std::find(chosen, chosen + slot, i) != chosen + slot) continue;
      if (best == n || score(i) > score(best)) best = i;
    }
    chosen[slot] = best;
  }
}

void look_up(const std::byte* token_experts, std::int32_t token, std::uint32_t used,
             std::uint32_t* chosen) {
  const std::size_t bytes = used * sizeof(std::uint32_t);
  std::memcpy(chosen, token_experts + static_cast<std::size_t>(token) * bytes, bytes);
}

/// Which experts a row goes to, and with what weights.
void route_row(const Compute& c, const Batch& batch, Workspace& ws, const LayerWeights& layer,
               std::uint32_t row) {
  const std::uint32_t used = c.hp.n_expert_used;
  float* p = ws.router.at(row);
  for (std::uint32_t i = 0; i < c.hp.n_expert; ++i) p[i] = std::sqrt(softplus(p[i]));
  std::uint32_t* chosen = ws.row_expert.data() + std::size_t{row} * used;
  if (layer.token_experts != nullptr)
    look_up(layer.token_experts, batch.rows[row].token, used, chosen);
  else
    choose_best(p, layer.router_bias, c.hp.n_expert, used, chosen);
  float sum = 0;
  for (std::uint32_t slot = 0; slot < used; ++slot) sum += p[chosen[slot]];
  sum = std::max(sum, 1e-20f);  // all underflowed: no expert speaks
  float* weight = ws.row_weight.data() + std::size_t{row} * used;
  for (std::uint32_t slot = 0; slot < used; ++slot)
    weight[slot] = p[chosen[slot]] / sum * c.hp.expert_weights_scale;
}

/// Sorts the (row, slot) pairs by expert, counting.
void group_by_expert(const Compute& c, std::uint32_t n, Workspace& ws) {
  const std::uint32_t used = c.hp.n_expert_used;
  const std::size_t pairs = std::size_t{n} * used;
  std::fill(ws.expert_begin.begin(), ws.expert_begin.end(), 0u);
  for (std::size_t i = 0; i < pairs; ++i) ++ws.expert_begin[ws.row_expert[i]];
  std::uint32_t begin = 0;
  for (std::uint32_t& count : ws.expert_begin) begin += std::exchange(count, begin);
  for (std::size_t i = 0; i < pairs; ++i) {
    const std::uint32_t entry = ws.expert_begin[ws.row_expert[i]]++;
    ws.row_entry[i] = entry;
    ws.entry_row[entry] = static_cast<std::uint32_t>(i / used);
  }
  // Each begin has moved on to its end, which is the next one's begin.
  for (std::size_t e = ws.expert_begin.size() - 1; e > 0; --e)
    ws.expert_begin[e] = ws.expert_begin[e - 1];
  ws.expert_begin[0] = 0;
}

}  // namespace

void expert_block(const Compute& c, const Batch& batch, Workspace& ws, const LayerWeights& layer,
                  float swiglu_limit) {
  const std::uint32_t n = batch.n(), used = c.hp.n_expert_used;
  const std::uint32_t routed = n * used;  // entries; the shared expert's follow
  const cpu::Product router{layer.router, &ws.act_x, {}, ws.router.data(), ws.router.width()};
  c.run({&router, 1});
  c.for_rows(n, std::size_t{16} * c.hp.n_expert,
             [&](std::uint32_t row) { route_row(c, batch, ws, layer, row); });
  group_by_expert(c, n, ws);

  ws.products.clear();
  for (std::uint32_t e = 0; e < c.hp.n_expert; ++e) {
    const std::uint32_t begin = ws.expert_begin[e], count = ws.expert_begin[e + 1] - begin;
    if (count == 0) continue;
    const std::span rows(ws.entry_row.data() + begin, count);
    ws.products.push_back(
        {layer.experts[e].gate, &ws.act_x, rows, ws.gate.at(begin), ws.gate.width()});
    ws.products.push_back({layer.experts[e].up, &ws.act_x, rows, ws.up.at(begin), ws.up.width()});
  }
  ws.products.push_back({layer.shared.gate, &ws.act_x, {}, ws.gate.at(routed), ws.gate.width()});
  ws.products.push_back({layer.shared.up, &ws.act_x, {}, ws.up.at(routed), ws.up.width()});
  c.run(ws.products);

  c.for_rows(routed + n, c.hp.expert_ffn, [&](std::uint32_t entry) {
    c.ops.swiglu(ws.gate.at(entry), ws.up.at(entry), c.hp.expert_ffn, swiglu_limit,
                 ws.gate.at(entry));
  });
  ws.act_hidden.prepare(c.pool, c.isa, ws.gate.data(), routed + n, c.hp.expert_ffn,
                        ws.gate.width());

  ws.products.clear();
  const auto down = [&](const cpu::Matrix& weights, std::uint32_t begin, std::uint32_t count) {
    const std::span entries(ws.counting.data() + begin, count);
    ws.products.push_back({weights, &ws.act_hidden, entries, ws.down.at(begin), ws.down.width()});
  };
  for (std::uint32_t e = 0; e < c.hp.n_expert; ++e) {
    const std::uint32_t begin = ws.expert_begin[e], end = ws.expert_begin[e + 1];
    if (begin != end) down(layer.experts[e].down, begin, end - begin);
  }
  down(layer.shared.down, routed, n);
  c.run(ws.products);

  c.for_rows(n, ws.x.width() * (used + 1), [&](std::uint32_t row) {
    const std::uint32_t* entry = ws.row_entry.data() + std::size_t{row} * used;
    const float* weight = ws.row_weight.data() + std::size_t{row} * used;
    c.ops.weighted_sum(ws.down.data(), entry, weight, used, ws.down.at(routed + row), c.hp.n_embd,
                       ws.y.at(row));
  });
}

}  // namespace ds4
