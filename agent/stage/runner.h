#pragma once
// What the engine thread does, without the thread: keeps what each session's cache holds, runs
// batches through the slice, and turns results and failures into frames.
//
// A session's place (position and hash of the tokens before it) is kept beside the slice's cache
// and moves only with a forward() that succeeded. Whatever goes wrong with a session costs that
// session its cache and nobody else anything: the next item it gets must begin at position 0 or
// fails with kMismatch, which is how its entry learns that it has to replay.
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "agent/stage/batch_queue.h"
#include "agent/stage/stage.h"
#include "engine/model/slice.h"
#include "engine/text/sampler.h"

namespace ds4::agent {

/// One thread at a time. `slice` outlives it.
class Runner {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  Runner(Slice& slice, const StagePlace& place, const StageOptions& options);

  void accept(wire::WorkFrame frame, std::vector<Outgoing>& out);
  void accept(const wire::CloseFrame& frame);
  void accept(const wire::ForkFrame& frame);
  bool idle() const { return queue_.empty(); }
  /// Carries out the closings and forks that are due and runs one batch.
  void step(std::vector<Outgoing>& out, TimePoint now);

  std::uint64_t sessions() const { return places_.size(); }
  std::uint64_t rows_done() const { return rows_done_; }
  std::uint64_t batches() const { return batches_; }

 private:
  struct Place {
    std::uint32_t position = 0;
    std::uint64_t hash = 0;
    TimePoint last_used;
  };

  bool is_last() const { return place_.index + 1 == place_.count; }
  bool streams_fit(const wire::WorkFrame& frame) const;
  void close_due(std::vector<Outgoing>& out);
  void fork_due(std::vector<Outgoing>& out, TimePoint now);
  Result<void> fork(const wire::ForkItem& item, TimePoint now);
  /// Checks that the slice holds exactly the prefix that the piece continues, opening the session
  /// where the piece begins it.
  Result<void> admit(const wire::WorkItem& item, TimePoint now);
  Result<void> open(const wire::WorkItem& item, TimePoint now);
  bool forget_an_idle_session(TimePoint now);
  void run(std::span<Piece> pieces, std::vector<Outgoing>& out);
  Result<void> forward(std::span<const Piece> pieces);
  std::span<const float> gather_streams(std::span<const Piece> pieces, std::size_t rows);
  void advance(std::span<const Piece> pieces);
  void pass_on(std::span<Piece> pieces, std::vector<Outgoing>& out);
  void answer(std::span<const Piece> pieces, std::vector<Outgoing>& out);
  void fail_session(std::uint64_t session, std::uint32_t entry, const Error& error,
                    std::vector<Outgoing>& out);
  void forget(std::uint64_t session);

  Slice& slice_;
  const StagePlace place_;
  const std::chrono::milliseconds idle_after_;
  const std::size_t floats_per_row_;
  BatchQueue queue_;
  std::unordered_map<std::uint64_t, Place> places_;
  std::optional<Sampler> sampler_;  // where the output head is
  // Reused from batch to batch.
  std::vector<Segment> segments_;
  std::vector<float> streams_in_;
  std::vector<float> streams_out_;
  std::vector<float> logits_;
  std::uint64_t rows_done_ = 0;
  std::uint64_t batches_ = 0;
};

}  // namespace ds4::agent
