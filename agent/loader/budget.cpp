#include "agent/loader/budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "engine/base/available_memory.h"
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

MemorySupply memory_supply(std::uint64_t held_bytes) {
  return {available_memory_bytes(), read_cgroup_memory(), held_bytes};
}

}  // namespace ds4::agent
