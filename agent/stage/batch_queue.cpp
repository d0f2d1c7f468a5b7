#include "agent/stage/batch_queue.h"

#include <algorithm>
#include <cassert>
#include <functional>
#include <iterator>

namespace ds4::agent {
namespace {

std::uint32_t rows_of(const Piece& piece) {
  return static_cast<std::uint32_t>(piece.item.tokens.size());
}

/// Cuts the first `rows` tokens off `rest`, leaving it as the item that continues them. Only the
/// last part of an item samples.
Piece split(Piece& rest, std::uint32_t rows) {
  Piece head = rest;
  head.item.tokens.resize(rows);
  head.item.sample.reset();
  rest.item.tokens.erase(rest.item.tokens.begin(), rest.item.tokens.begin() + rows);
  rest.item.first_position += rows;
  rest.item.prefix_hash = wire::extend_hash(rest.item.prefix_hash, head.item.tokens);
  rest.first_row += rows;
  return head;
}

/// The first of as few equal parts of `rows` as fit into `room`.
std::uint32_t equal_part(std::uint32_t rows, std::uint32_t room) {
  const std::uint32_t parts = (rows + room - 1) / room;
  return (rows + parts - 1) / parts;
}

}  // namespace

BatchQueue::BatchQueue(std::uint32_t max_rows)
    : max_rows_(std::clamp(max_rows, 1U, wire::kMaxFrameTokens)) {}

void BatchQueue::push(wire::WorkFrame frame, std::chrono::steady_clock::time_point arrived) {
  std::shared_ptr<const std::vector<float>> streams;
  if (!frame.streams.empty()) {
    streams = std::make_shared<const std::vector<float>>(std::move(frame.streams));
  }
  std::size_t row = 0;
  for (wire::WorkItem& item : frame.items) {
    const std::size_t rows = item.tokens.size();
    const std::uint64_t session = item.session;
    append(session, Piece{std::move(item), streams, row, arrived});
    row += rows;
  }
  waiting_rows_ += row;
}

void BatchQueue::push_close(std::uint64_t session) {
  drop_unwanted(session);
  append(session, Close{});
}

/// What a fork of the session waits for is wanted still.
void BatchQueue::drop_unwanted(std::uint64_t session) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  Line& line = found->second;
  const auto last_fork = std::find_if(line.rbegin(), line.rend(), [](const Entry& entry) {
    return std::holds_alternative<wire::ForkItem>(entry);
  });
  const auto is_piece = [](const Entry& entry) { return std::holds_alternative<Piece>(entry); };
  const bool head_goes = last_fork == line.rend() && is_piece(line.front());
  const auto rest = std::stable_partition(last_fork.base(), line.end(), std::not_fn(is_piece));
  for (auto piece = rest; piece != line.end(); ++piece)
    waiting_rows_ -= rows_of(std::get<Piece>(*piece));
  line.erase(rest, line.end());
  if (!head_goes) return;
  std::erase(decodes_, session);
  std::erase(prefills_, session);
  enlist(session);
}

void BatchQueue::push_fork(const wire::ForkItem& fork) {
  append(fork.source, fork);
  append(fork.target, AwaitFork{fork.source});
}

void BatchQueue::append(std::uint64_t session, Entry entry) {
  Line& line = sessions_[session];
  line.push_back(std::move(entry));
  if (line.size() == 1) enlist(session);
}

void BatchQueue::enlist(std::uint64_t session) {
  const auto found = sessions_.find(session);
  if (found->second.empty()) {
    sessions_.erase(found);
    return;
  }
  const Entry& head = found->second.front();
  if (std::holds_alternative<AwaitFork>(head)) return;  // release_target() goes on
  if (std::holds_alternative<Close>(head)) {
    closes_.push_back(session);
  } else if (std::holds_alternative<wire::ForkItem>(head)) {
    forks_.push_back(session);
  } else if (rows_of(std::get<Piece>(head)) == 1) {
    decodes_.push_back(session);
  } else {
    prefills_.push_back(session);
  }
}

std::vector<std::uint64_t> BatchQueue::take_closes() {
  std::vector<std::uint64_t> taken;
  while (!closes_.empty()) {
    const std::uint64_t session = closes_.front();
    closes_.pop_front();
    taken.push_back(session);
    sessions_.at(session).pop_front();
    enlist(session);
  }
  return taken;
}

std::vector<wire::ForkItem> BatchQueue::take_forks() {
  std::vector<wire::ForkItem> taken;
  while (!forks_.empty()) {
    Line& line = sessions_.at(forks_.front());
    taken.push_back(std::get<wire::ForkItem>(line.front()));
    line.pop_front();
    forks_.pop_front();
    enlist(taken.back().source);
    release_target(taken.back());
  }
  return taken;
}

/// Forks of one source to one target are taken in the order in which they wait, so the first of the
/// target's entries that awaits this source is the one.
void BatchQueue::release_target(const wire::ForkItem& fork) {
  Line& line = sessions_.at(fork.target);
  const auto awaits = std::find_if(line.begin(), line.end(), [&](const Entry& entry) {
    const auto* waiting = std::get_if<AwaitFork>(&entry);
    return waiting != nullptr && waiting->source == fork.source;
  });
  const bool was_head = awaits == line.begin();
  line.erase(awaits);
  if (was_head) enlist(fork.target);
}

Piece BatchQueue::take_rows(std::uint64_t session, std::uint32_t rows) {
  Line& line = sessions_.at(session);
  Piece& head = std::get<Piece>(line.front());
  waiting_rows_ -= std::min(rows, rows_of(head));
  if (rows < rows_of(head)) return split(head, rows);
  Piece whole = std::move(head);
  line.pop_front();
  return whole;
}

std::uint32_t BatchQueue::head_rows(std::uint64_t session) const {
  return rows_of(std::get<Piece>(sessions_.at(session).front()));
}

std::uint32_t BatchQueue::decode_rows() {
  if (prefills_.empty()) return max_rows_;
  if (max_rows_ >= 8) return max_rows_ - max_rows_ / 8;
  prefill_turn_ = !prefill_turn_;
  return prefill_turn_ ? max_rows_ - 1 : max_rows_;
}

std::vector<Piece> BatchQueue::take_batch(const BatchBounds& bounds) {
  std::vector<Piece> batch;
  std::vector<std::uint64_t> taken;
  std::uint32_t rows = 0;
  const std::uint32_t most_decodes =
      std::min({decode_rows(), bounds.decode_rows, wire::kMaxItems - 1});
  while (!decodes_.empty() && rows < most_decodes) {
    taken.push_back(decodes_.front());
    decodes_.pop_front();
    batch.push_back(take_rows(taken.back(), 1));
    ++rows;
  }
  const std::uint32_t end = rows + std::min(bounds.prefill_rows, max_rows_ - rows);
  while (!prefills_.empty() && rows < end && batch.size() < wire::kMaxItems) {
    taken.push_back(prefills_.front());
    prefills_.pop_front();
    std::uint32_t part = end - rows;
    // What would be left for the next batch could be too little to be worth one.
    if (prefills_.empty()) part = equal_part(head_rows(taken.back()), part);
    batch.push_back(take_rows(taken.back(), part));
    rows += rows_of(batch.back());
  }
  // Only now do they queue again, so that none is taken twice.
  for (const std::uint64_t session : taken) enlist(session);
  return batch;
}

}  // namespace ds4::agent
