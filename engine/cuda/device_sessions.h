#pragma once
// The sessions of a slice on the GPU: each a KV cache in one allocation of device memory.
//
// Cached rows are halves, ready to be multiplied: what the official graph rounds to FP8 and FP4 is
// exact in them. The compressors' running sums exist twice: a call reads one copy and writes the
// other, because the blocks of a call are pooled at the same time.
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/cuda/device_buffer.h"
#include "engine/cuda/kernels/tables.h"
#include "engine/model/slice.h"

namespace ds4::cuda {

/// Where the parts of a session's cache lie.
struct DeviceCachePlan {
  std::vector<CacheLayer> layers;
  std::uint64_t bytes = 0;

  static DeviceCachePlan make(const HyperParams& params, const LayerRange& range,
                              std::uint32_t context);
};

struct DeviceSession {
  DeviceBuffer<std::byte> cache;
  std::uint32_t context = 0;
  std::uint32_t position = 0;
  std::uint32_t state_slot = 0;
  std::uint64_t last_call = 0;
};

/// A call's rows as the kernels see them.
struct CallPlan {
  std::vector<RowEntry> rows;
  std::vector<SegmentEntry> segments;
  std::vector<std::uint32_t> wanted;
  std::vector<DeviceSession*> sessions;  // of the segments
  std::uint32_t last_position = 0;       // the highest of any row

  std::uint32_t n() const { return static_cast<std::uint32_t>(rows.size()); }
};

class DeviceSessions {
 public:
  /// `budget_bytes` 0: unlimited. The parameters must outlive this.
  DeviceSessions(const HyperParams& params, const LayerRange& range, std::uint64_t budget_bytes)
      : hp_(params), range_(range), budget_bytes_(budget_bytes) {}

  // On the current device.
  Result<void> open(SessionId session, std::uint32_t context);
  void close(SessionId session);
  Result<void> fork(SessionId source, SessionId target);
  Result<std::uint32_t> position(SessionId session) const;

  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t bytes_for(std::uint32_t context) const {
    return DeviceCachePlan::make(hp_, range_, context).bytes;
  }

  /// Checks the segments and lists their rows. Sessions stay as they are.
  Result<void> plan(std::span<const Segment> segments, std::uint32_t max_rows, CallPlan& call);
  /// The call has been computed.
  static void advance(const CallPlan& call);

 private:
  Result<DeviceSession*> find(SessionId session) const;
  Result<DeviceSession> allocate(std::uint32_t context) const;
  Result<void> plan_segment(const Segment& segment, std::uint32_t max_rows, CallPlan& call);

  const HyperParams& hp_;
  const LayerRange range_;
  const std::uint64_t budget_bytes_;
  std::unordered_map<SessionId, std::unique_ptr<DeviceSession>> sessions_;
  std::uint64_t bytes_ = 0;
  std::uint64_t calls_ = 0;
};

}  // namespace ds4::cuda
