#pragma once
// Makes a Slice that computes on the CPU, over weights that are already resident.
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "engine/base/result.h"
#include "engine/cpu/isa.h"
#include "engine/cpu/linear.h"
#include "engine/model/slice.h"
#include "engine/residency/resident_slice.h"

namespace ds4 {

struct CpuSliceOptions {
  Graph graph = Graph::kOfficial;
  cpu::Precision precision = cpu::Precision::kFast;
  unsigned threads = 1;
  std::uint32_t max_rows = 512;       // rows that one forward() takes
  std::uint64_t kv_budget_bytes = 0;  // 0: unlimited
  cpu::Isa isa = cpu::choose_isa();
  /// For tests and debugging: sees the streams entering each layer, {rows, n_streams, n_embd}.
  std::function<void(std::uint32_t layer, std::span<const float> streams)> tap;
};

/// Errors: kNotFound/kCorrupt naming a tensor that is absent or has another shape or type than the
/// metadata demands; kUnsupported.
Result<std::unique_ptr<Slice>> make_cpu_slice(std::shared_ptr<const ResidentSlice> weights,
                                              const CpuSliceOptions& options);

}  // namespace ds4
