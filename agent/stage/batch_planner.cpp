#include "agent/stage/batch_planner.h"

#include <algorithm>

#include "agent/stage/stage.h"

namespace ds4::agent {
namespace {

/// Somebody who decoded so lately is taken to go on: his next step is on its way.
constexpr std::chrono::seconds kStillDecoding{2};
constexpr int kPatience = 4;  // times the decode rows' own batch

std::uint32_t rows_of(const Piece& piece) {
  return static_cast<std::uint32_t>(piece.item.tokens.size());
}

}  // namespace

BatchPlanner::BatchPlanner(const StagePlace& place, std::uint32_t max_rows,
                           std::chrono::nanoseconds decode_wait)
    : stages_(place.count),
      makes_groups_(place.index == 0 && place.count > 1),
      max_rows_(max_rows),
      batch_time_(decode_wait / (2 * std::max(1U, place.count))) {}

BatchBounds BatchPlanner::plan(const BatchQueue& queue, TimePoint now) const {
  BatchBounds bounds{max_rows_, max_rows_};
  if (makes_groups_) bounds.decode_rows = std::max(1U, group_rows(queue));
  const std::uint32_t decodes = std::min(queue.waiting_decodes(), bounds.decode_rows);
  bounds.prefill_rows = prompt_rows(queue, decodes, now);
  return bounds;
}

/// An equal share of the sessions that wait here or are on their way.
std::uint32_t BatchPlanner::group_rows(const BatchQueue& queue) const {
  std::size_t sessions = queue.waiting_decodes();
  for (const auto& group : groups_) {
    sessions += static_cast<std::size_t>(std::count_if(
        group.begin(), group.end(), [&](std::uint64_t id) { return !queue.has_work_for(id); }));
  }
  return static_cast<std::uint32_t>((sessions + stages_ - 1) / stages_);
}

std::uint32_t BatchPlanner::prompt_rows(const BatchQueue& queue, std::uint32_t decode_rows,
                                        TimePoint now) const {
  const auto waiting = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(queue.waiting_rows() - queue.waiting_decodes(), UINT32_MAX));
  std::uint32_t rows = max_rows_;
  if (makes_groups_) rows = times_.rows_to_pipeline(waiting, stages_, max_rows_);
  const bool decoding = decode_rows > 0 || (last_decode_ && now - *last_decode_ < kStillDecoding);
  if (!decoding || batch_time_ == batch_time_.zero() || !times_.guess(1)) return rows;
  const std::uint32_t steps = std::max(1U, decode_rows);
  std::chrono::nanoseconds time = batch_time_;
  if (times_.knows(steps)) time = std::max(time, kPatience * *times_.guess(steps));
  const std::uint32_t fit = times_.rows_within(time, max_rows_);
  return std::min(rows, fit > decode_rows ? fit - decode_rows : 1);
}

void BatchPlanner::ran(std::span<const Piece> pieces, std::chrono::nanoseconds time,
                       TimePoint now) {
  std::uint32_t rows = 0;
  std::vector<std::uint64_t> group;
  for (const Piece& piece : pieces) {
    rows += rows_of(piece);
    if (rows_of(piece) == 1) group.push_back(piece.item.session);
  }
  times_.add(rows, time);
  if (group.empty()) return;
  last_decode_ = now;
  if (!makes_groups_) return;
  groups_.push_back(std::move(group));
  if (groups_.size() >= stages_) groups_.pop_front();
}

void BatchPlanner::forget(std::span<const std::uint64_t> sessions) {
  for (auto& group : groups_) {
    std::erase_if(group, [&](std::uint64_t id) {
      return std::find(sessions.begin(), sessions.end(), id) != sessions.end();
    });
  }
}

}  // namespace ds4::agent
