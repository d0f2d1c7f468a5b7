#pragma once
// How large the next batch may be. Three rules, in the order of their weight:
//
// Whoever is decoding is not kept waiting by somebody's prompt. A step that comes to a stage waits
// for the batch that is running and then computes in the next one, so both are kept short: while
// anybody decodes, a batch takes as many rows of prompts as end within
//
//     decode_wait / (2 * stages)
//
// by what batches have lately taken here. Over all stages a token then comes at most decode_wait
// later than without prompts. A wait that this machine cannot keep is not chased by starving the
// prompts: a batch may always take four times what its decode rows take alone.
//
// All stages work at once. In a route of several stages the first one makes the groups: while eight
// sessions decode over two stages, it runs four and then the other four, not all eight while the
// second stage has nothing to do. Nobody decides that behind it, because groups that meet at a
// later stage are as well run together, and the first stage divides them again.
//
// So does a prompt: it goes down the route in batches that keep all stages busy (batch_times.h).
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "agent/stage/batch_queue.h"
#include "agent/stage/batch_times.h"

namespace ds4::agent {

struct StagePlace;

/// One thread at a time. Pure: it knows the time it is told.
class BatchPlanner {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  /// `max_rows`: of any batch. `decode_wait` 0: prompts may take all of it.
  BatchPlanner(const StagePlace& place, std::uint32_t max_rows,
               std::chrono::nanoseconds decode_wait);

  BatchBounds plan(const BatchQueue& queue, TimePoint now) const;
  /// These ran as one batch, which ended at `now`.
  void ran(std::span<const Piece> pieces, std::chrono::nanoseconds time, TimePoint now);
  /// Sessions that ended.
  void forget(std::span<const std::uint64_t> sessions);

 private:
  std::uint32_t group_rows(const BatchQueue& queue) const;
  std::uint32_t prompt_rows(const BatchQueue& queue, std::uint32_t decode_rows,
                            TimePoint now) const;

  const std::uint32_t stages_;
  const bool makes_groups_;
  const std::uint32_t max_rows_;
  const std::chrono::nanoseconds batch_time_;  // while anybody decodes; 0: any
  BatchTimes times_;
  std::optional<TimePoint> last_decode_;
  /// The sessions of the last groups, which are at the stages behind this one unless they wait here
  /// again.
  std::deque<std::vector<std::uint64_t>> groups_;
};

}  // namespace ds4::agent
