#pragma once
// Which rows run next: the part of a stage that decides, without threads and without an engine.
//
// Work waits per session, in order. A batch is made of the heads of these queues: first the items
// of one token (decode steps, where somebody waits for every single one), then a bounded slice of
// longer items (prefill), cut where the room ends. Sessions take turns within both kinds, and a
// session appears at most once in a batch. Prefill is never starved: while some waits, it keeps an
// eighth of the rows (every other batch, where that is less than one row). How much of either kind
// a batch takes is batch_planner.h's business.
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <variant>
#include <vector>

#include "agent/wire/frame.h"

namespace ds4::agent {

/// A run of one item's tokens, with the rows of the streams they came with.
struct Piece {
  wire::WorkItem item;  // first_position, prefix_hash, tokens and sample are those of this piece
  std::shared_ptr<const std::vector<float>> streams;  // of the whole frame; null at the first stage
  std::size_t first_row = 0;                          // of the piece, in `streams`
  std::chrono::steady_clock::time_point arrived{};    // its item, here
};

/// The most rows of each kind in one batch; both at least 1.
struct BatchBounds {
  std::uint32_t decode_rows = UINT32_MAX;
  std::uint32_t prefill_rows = UINT32_MAX;
};

class BatchQueue {
 public:
  /// At least 1: rows of one batch.
  explicit BatchQueue(std::uint32_t max_rows);

  /// `frame.streams` must be empty or have a whole number of floats for each of its rows.
  void push(wire::WorkFrame frame, std::chrono::steady_clock::time_point arrived = {});
  /// Takes along the session's work that waits, but for what one of its forks waits for.
  void push_close(std::uint64_t session);
  /// Waits for the source's work that came before it; the target's work that comes after waits for
  /// it.
  void push_fork(const wire::ForkItem& fork);
  bool empty() const { return sessions_.empty(); }
  /// In no batch yet.
  std::uint64_t waiting_rows() const { return waiting_rows_; }
  /// Sessions whose next work is a decode step.
  std::uint32_t waiting_decodes() const { return static_cast<std::uint32_t>(decodes_.size()); }
  bool has_work_for(std::uint64_t session) const { return sessions_.contains(session); }

  /// The sessions whose closing has nothing before it any more, in order of their turn.
  std::vector<std::uint64_t> take_closes();
  /// The forks whose source has no work before them any more. What the targets have waiting may
  /// run from here on.
  std::vector<wire::ForkItem> take_forks();
  /// The next batch: at least one piece unless only closings and forks (or nothing) wait.
  std::vector<Piece> take_batch(const BatchBounds& bounds = {});

 private:
  struct Close {};
  /// In the target's line, until its fork has been taken.
  struct AwaitFork {
    std::uint64_t source;
  };
  using Entry = std::variant<Piece, Close, wire::ForkItem, AwaitFork>;
  using Line = std::deque<Entry>;

  void append(std::uint64_t session, Entry entry);
  void drop_unwanted(std::uint64_t session);
  /// Puts the session into the turn its head belongs to, or forgets it when nothing waits.
  void enlist(std::uint64_t session);
  void release_target(const wire::ForkItem& fork);
  std::uint32_t head_rows(std::uint64_t session) const;  // whose head is a piece
  Piece take_rows(std::uint64_t session, std::uint32_t rows);
  std::uint32_t decode_rows();

  std::uint32_t max_rows_;
  bool prefill_turn_ = false;
  std::uint64_t waiting_rows_ = 0;
  std::unordered_map<std::uint64_t, Line> sessions_;  // none is empty; each is in at most one turn
  std::deque<std::uint64_t> closes_;
  std::deque<std::uint64_t> forks_;  // sources
  std::deque<std::uint64_t> decodes_;
  std::deque<std::uint64_t> prefills_;
};

}  // namespace ds4::agent
