#pragma once
// Whether memory holds what is asked for: decided with numbers before a byte is touched.
#include <cstdint>
#include <functional>
#include <string>

#include "agent/config/config.h"
#include "agent/loader/cgroup_memory.h"
#include "engine/base/result.h"
#include "engine/model/hyper_params.h"
#include "engine/residency/interval_set.h"
#include "engine/residency/layer_range.h"

namespace ds4::agent {

/// Left to the rest of the machine, and to the kernel, when the budget is "auto".
inline constexpr std::uint64_t kMachineReserveBytes = 256U << 20;
/// Left in a control group that holds this agent alone.
inline constexpr std::uint64_t kGroupReserveBytes = 16U << 20;

/// What a range takes once it serves.
struct MemoryNeed {
  std::uint64_t weight_bytes = 0;   // with what serves now, each byte once
  std::uint64_t kv_bytes = 0;       // one session of the configured context, or memory.kv_mib
  std::uint64_t scratch_bytes = 0;  // the forward pass's rows, and page tables for the weights
  std::uint64_t total() const { return weight_bytes + kv_bytes + scratch_bytes; }
};

/// What the machine has.
struct MemorySupply {
  std::uint64_t available_bytes = 0;  // MemAvailable; 0 if unknown
  CgroupMemory group;
  /// Held by this agent's weights, and not counted as available.
  std::uint64_t held_bytes = 0;
};

/// memory.budget, or what the machine and its control groups leave; in both cases including what
/// the agent's weights hold already. UINT64_MAX if nothing is known.
std::uint64_t budget_bytes(const Config::Memory& memory, const MemorySupply& supply);

/// Errors: kResourceExhausted, with what is needed, what there is, and the largest range from the
/// same first layer that would fit. `need_of` is asked about `range` and shorter ones.
Result<void> check_budget(const LayerRange& range, std::uint64_t budget,
                          const std::function<MemoryNeed(const LayerRange&)>& need_of);

/// How much KV cache all sessions together may take: what the configuration says; else a quarter of
/// what is available now that the weights are in memory, but one session of the configured context
/// (`session_bytes`) where there is room for it. 0: no limit is known.
std::uint64_t choose_kv_budget(const Config::Memory& memory, std::uint64_t available_bytes,
                               std::uint64_t session_bytes);

/// Now, of this machine and this process's groups.
MemorySupply memory_supply(std::uint64_t held_bytes);

}  // namespace ds4::agent
