#include "agent/loader/budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <optional>

#include "engine/base/bytes_text.h"

namespace ds4::agent {
namespace {

std::uint64_t less(std::uint64_t a, std::uint64_t b) {
  return a - std::min(a, b);
}

/// The longest range from range.first that fits and is shorter than `range`.
std::optional<LayerRange> largest_that_fits(
    const LayerRange& range, std::uint64_t budget,
    const std::function<MemoryNeed(const LayerRange&)>& need_of) {
  LayerRange shorter = range;
  while (shorter.output || shorter.last > shorter.first) {
    if (shorter.output) {
      shorter.output = false;
    } else {
      --shorter.last;
    }
    if (need_of(shorter).total() <= budget) return shorter;
  }
  return std::nullopt;
}

}  // namespace

std::uint64_t budget_bytes(const Config::Memory& memory, const MemorySupply& supply) {
  if (memory.budget_bytes > 0) return memory.budget_bytes;
  std::uint64_t left = UINT64_MAX;
  if (supply.available_bytes > 0) left = less(supply.available_bytes, kMachineReserveBytes);
  if (supply.group.left_bytes) {
    left = std::min(left, less(*supply.group.left_bytes, kGroupReserveBytes));
  }
  return left == UINT64_MAX ? left : left + supply.held_bytes;
}

Result<void> check_budget(const LayerRange& range, std::uint64_t budget,
                          const std::function<MemoryNeed(const LayerRange&)>& need_of) {
  const MemoryNeed need = need_of(range);
  if (need.total() <= budget) return {};
  const auto fits = largest_that_fits(range, budget, need_of);
  return fail(
      ErrorCode::kResourceExhausted,
      fmt::format("layers {} need {} (weights {}, KV cache {}, scratch {}), but this node can give "
                  "{}: {}",
                  range.to_string(), bytes_text(need.total()), bytes_text(need.weight_bytes),
                  bytes_text(need.kv_bytes), bytes_text(need.scratch_bytes), bytes_text(budget),
                  fits ? fmt::format("{} is the most that fits from layer {}", fits->to_string(),
                                     range.first)
                       : fmt::format("not even layer {} fits; free memory, or lower engine.context "
                                     "or engine.max_rows",
                                     range.first)));
}

std::uint64_t choose_kv_budget(const Config::Memory& memory, std::uint64_t available_bytes,
                               std::uint64_t session_bytes) {
  if (memory.kv_mib > 0) return std::uint64_t{memory.kv_mib} << 20;
  return std::max(available_bytes / 4, std::min(available_bytes, session_bytes));
}

std::uint64_t scratch_bytes(const HyperParams& hp, std::uint32_t max_rows) {
  const std::uint64_t embd = hp.n_embd, heads = std::uint64_t{hp.n_head} * hp.head_dim;
  const std::uint64_t experts = hp.n_expert_used + 1;
  const std::uint64_t groups = std::uint64_t{hp.n_group} * hp.o_rank;
  const std::uint64_t index = std::uint64_t{hp.index_heads} * hp.index_dim;
  // Floats of a row as the pass keeps them, then the same rows prepared for the products.
  const std::uint64_t kept = hp.n_streams * embd + 2 * embd + hp.q_rank + 2 * heads +
                             6 * hp.head_dim + groups + index + hp.n_expert +
                             experts * (2 * hp.expert_ffn + embd) + 4 * hp.index_top_k;
  const std::uint64_t prepared =
      hp.n_streams * embd + embd + hp.q_rank + heads + groups + experts * hp.expert_ffn;
  return (kept + prepared) * sizeof(float) * max_rows;
}

std::uint64_t page_table_bytes(std::uint64_t mapped_bytes) {
  return mapped_bytes / 512;
}

std::uint64_t available_memory_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::uint64_t kib = 0;
  std::string rest;
  while (meminfo >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    std::getline(meminfo, rest);
  }
  return 0;
}

MemorySupply memory_supply(std::uint64_t held_bytes) {
  return {available_memory_bytes(), read_cgroup_memory(), held_bytes};
}

}  // namespace ds4::agent
