#pragma once
// The sessions of a slice, and the check that stands before every call: either a call's rows are
// all in order, or it is refused and nothing has changed.
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>

#include "engine/base/result.h"
#include "engine/cpu/ops.h"
#include "engine/model/batch.h"
#include "engine/model/kv_cache.h"
#include "engine/model/slice.h"

namespace ds4 {

/// Whether a session that holds `position` of `context` positions can take the segment.
Result<void> check_segment(const Segment& segment, std::uint32_t position, std::uint32_t context,
                           std::uint32_t n_vocab);

/// Whether the call's buffers are of the sizes that slice.h says.
Result<void> check_buffers(const HyperParams& hp, const LayerRange& range, std::size_t rows,
                           std::size_t wanted_rows, const SliceInput& input,
                           const SliceOutput& output);

class Sessions {
 public:
  /// `budget_bytes` 0: unlimited. The parameters must outlive this.
  Sessions(const HyperParams& params, const LayerRange& range, Graph graph, const cpu::Ops& ops,
           std::uint64_t budget_bytes)
      : hp_(params), range_(range), graph_(graph), ops_(ops), budget_bytes_(budget_bytes) {}

  Result<void> open(SessionId session, std::uint32_t context);
  void close(SessionId session);
  Result<void> fork(SessionId source, SessionId target);
  Result<std::unique_ptr<DetachedSession>> detach(SessionId session);
  Result<void> restore(SessionId session, std::uint32_t context, std::uint32_t position,
                       const SessionSource& source);
  Result<std::uint32_t> position(SessionId session) const;

  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t bytes_for(std::uint32_t context) const {
    return KvPlan::make(hp_, range_, graph_, context).bytes;
  }

  /// Checks the segments and lists their rows. Sessions stay as they are.
  Result<void> plan(std::span<const Segment> segments, std::uint32_t max_rows, Batch& batch);

 private:
  Result<void> plan_segment(const Segment& segment, std::uint32_t max_rows, Batch& batch);

  const HyperParams& hp_;
  const LayerRange range_;
  const Graph graph_;
  const cpu::Ops& ops_;
  const std::uint64_t budget_bytes_;
  std::unordered_map<SessionId, std::unique_ptr<SessionCache>> caches_;
  std::uint64_t bytes_ = 0;
  std::uint64_t calls_ = 0;
};

}  // namespace ds4
