#pragma once
// What the engine thread does, without the thread: keeps what each session's cache holds, runs
// batches through the slice, and turns results and failures into frames.
//
// Whatever goes wrong with a session costs that session its cache and nobody else anything: the
// next item it gets must begin at position 0 or fails with kMismatch, which is how its entry learns
// that it has to replay.
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "agent/stage/batch_planner.h"
#include "agent/stage/batch_queue.h"
#include "agent/stage/held_sessions.h"
#include "agent/stage/stage.h"
#include "engine/model/slice.h"
#include "engine/text/sampler.h"

namespace ds4::agent {

/// One thread at a time. `slice` outlives it.
class Runner {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  Runner(Slice& slice, const StagePlace& place, const StageOptions& options);

  /// `arrived`: when the frame came to this node.
  void accept(wire::WorkFrame frame, std::vector<Outgoing>& out, TimePoint arrived = {});
  void accept(const wire::CloseFrame& frame);
  void accept(const wire::ForkFrame& frame);
  bool idle() const { return queue_.empty(); }
  /// Carries out the closings and forks that are due and runs one batch.
  void step(std::vector<Outgoing>& out, TimePoint now);
  /// What nobody waits for, when the frames of a step have left: puts an idle session away. True if
  /// one was.
  bool tidy(TimePoint now) { return held_.put_away_idle(now); }

  /// When to call tidy() without any work; nothing: never.
  std::optional<TimePoint> next_look() const { return held_.next_look(); }

  std::uint64_t sessions() const { return held_.size(); }
  /// From any thread.
  KvStoreStats stored() const { return held_.stored(); }
  std::uint64_t waiting_rows() const { return queue_.waiting_rows(); }
  /// Closings and forks that have not been carried out.
  std::uint64_t waiting_orders() const { return waiting_orders_; }
  const StageWork& work() const { return work_; }
  /// There was nothing to do for so long.
  void note_pause(std::chrono::nanoseconds time);

 private:
  bool is_last() const { return place_.index + 1 == place_.count; }
  bool streams_fit(const wire::WorkFrame& frame) const;
  void close_due(std::vector<Outgoing>& out);
  void fork_due(std::vector<Outgoing>& out, TimePoint now);
  void run(std::span<Piece> pieces, std::vector<Outgoing>& out);
  Result<void> forward(std::span<const Piece> pieces);
  std::span<const float> gather_streams(std::span<const Piece> pieces, std::size_t rows);
  void advance(std::span<const Piece> pieces);
  void pass_on(std::span<Piece> pieces, std::vector<Outgoing>& out);
  void answer(std::span<const Piece> pieces, std::vector<Outgoing>& out);
  void fail_session(std::uint64_t session, std::uint32_t entry, const Error& error,
                    std::vector<Outgoing>& out);

  Slice& slice_;
  const StagePlace place_;
  const std::size_t floats_per_row_;
  const std::function<TimePoint()> clock_;
  BatchQueue queue_;
  BatchPlanner planner_;
  HeldSessions held_;
  std::uint64_t waiting_orders_ = 0;
  // Reused from batch to batch.
  std::vector<Segment> segments_;
  std::vector<float> streams_in_;
  std::vector<float> streams_out_;
  std::vector<SampledToken> tokens_;
  StageWork work_;
};

}  // namespace ds4::agent
