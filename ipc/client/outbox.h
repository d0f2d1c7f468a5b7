#pragma once
// What a client has asked for and the rings had no room for yet: requests whose prompts may be
// longer than the arena, sent piece by piece as the agent copies them out.
#include <cstdint>
#include <deque>
#include <vector>

#include "ipc/region.h"
#include "ipc/ring.h"

namespace ds4::ipc {

/// Thread rule: one thread at a time. The region must outlive it.
class Outbox {
 public:
  Outbox() = default;
  explicit Outbox(const Region& region);

  /// `entry` is complete but for its arena fields; only a generate has tokens.
  void add(const SubmissionEntry& entry, std::vector<std::int32_t> prompt = {},
           std::vector<std::int32_t> stop = {});
  /// True if the request was taken back before the agent saw any of it; otherwise a cancel is on
  /// its way.
  bool cancel(std::uint64_t request_id);

  /// Writes and shows what fits. True if anything was written: the agent may need the doorbell.
  bool pump();
  bool empty() const { return urgent_.empty() && waiting_.empty(); }
  /// The agent's positions are impossible.
  bool broken() const { return broken_ || ring_.broken(); }

 private:
  struct Waiting {
    SubmissionEntry entry;
    std::vector<std::int32_t> prompt;
    std::vector<std::int32_t> stop;
    std::size_t sent = 0;  // prompt tokens, in parts
  };

  bool pump_one(Waiting& waiting);
  void refresh_arena();
  std::uint64_t arena_room() const { return arena_tokens_ - (arena_tail_ - arena_head_); }
  void write_arena(const std::int32_t* tokens, std::size_t count);

  RingProducer<SubmissionEntry> ring_;
  std::int32_t* arena_ = nullptr;
  std::uint32_t arena_tokens_ = 0;
  std::uint64_t* arena_head_word_ = nullptr;
  std::uint64_t arena_head_ = 0;        // as last read
  std::uint64_t arena_tail_ = 0;        // ours
  std::deque<SubmissionEntry> urgent_;  // cancels: they may overtake
  std::deque<Waiting> waiting_;
  bool broken_ = false;
};

}  // namespace ds4::ipc
