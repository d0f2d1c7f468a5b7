#include "agent/stage/runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <utility>

namespace ds4::agent {
namespace {

std::size_t rows_of(const wire::WorkItem& item) {
  return item.tokens.size();
}

std::size_t rows_of(std::span<const Piece> pieces) {
  std::size_t rows = 0;
  for (const Piece& piece : pieces) rows += rows_of(piece.item);
  return rows;
}

std::uint32_t end_of(const wire::WorkItem& item) {
  return item.first_position + static_cast<std::uint32_t>(item.tokens.size());
}

std::uint32_t prefill_rows(const StageOptions& options, std::uint32_t max_rows) {
  return options.prefill_rows_per_batch == 0 ? max_rows : options.prefill_rows_per_batch;
}

}  // namespace

Runner::Runner(Slice& slice, const StagePlace& place, const StageOptions& options)
    : slice_(slice),
      place_(place),
      idle_after_(options.idle_after),
      floats_per_row_(std::size_t{slice.params().n_streams} * slice.params().n_embd),
      queue_(slice.max_rows(), prefill_rows(options, slice.max_rows())) {
  assert(slice.range().has_embedding() == (place.index == 0));
  assert(slice.range().output == is_last());
  if (is_last()) sampler_.emplace(slice.params().n_vocab);
}

bool Runner::streams_fit(const wire::WorkFrame& frame) const {
  std::size_t rows = 0;
  for (const wire::WorkItem& item : frame.items) rows += rows_of(item);
  const std::size_t expected = slice_.range().has_embedding() ? 0 : rows * floats_per_row_;
  return frame.streams.size() == expected;
}

void Runner::accept(wire::WorkFrame frame, std::vector<Outgoing>& out) {
  // An item that no stage awaits can neither be answered nor refused.
  std::size_t unanswerable = 0;
  for (const wire::WorkItem& item : frame.items) unanswerable += item.entry >= place_.count;
  if (unanswerable > 0) return;
  if (!streams_fit(frame)) {
    const Error error{ErrorCode::kCorrupt, "work came with streams of the wrong size"};
    for (const wire::WorkItem& item : frame.items) {
      fail_session(item.session, item.entry, error, out);
    }
    return;
  }
  queue_.push(std::move(frame));
}

void Runner::accept(const wire::CloseFrame& frame) {
  for (const std::uint64_t session : frame.sessions) queue_.push_close(session);
}

void Runner::accept(const wire::ForkFrame& frame) {
  for (const wire::ForkItem& item : frame.items) {
    if (item.entry < place_.count && item.source != item.target) queue_.push_fork(item);
  }
}

void Runner::step(std::vector<Outgoing>& out, TimePoint now) {
  close_due(out);
  fork_due(out, now);
  std::vector<Piece> batch = queue_.take_batch();
  std::vector<Piece> admitted;
  admitted.reserve(batch.size());
  for (Piece& piece : batch) {
    if (const auto ok = admit(piece.item, now); !ok) {
      fail_session(piece.item.session, piece.item.entry, ok.error(), out);
    } else {
      admitted.push_back(std::move(piece));
    }
  }
  if (!admitted.empty()) run(admitted, out);
}

void Runner::close_due(std::vector<Outgoing>& out) {
  const std::vector<std::uint64_t> due = queue_.take_closes();
  for (std::size_t begin = 0; begin < due.size(); begin += wire::kMaxItems) {
    const std::size_t end = std::min(due.size(), begin + wire::kMaxItems);
    wire::CloseFrame frame;
    frame.epoch = place_.epoch;
    frame.sessions.assign(due.begin() + begin, due.begin() + end);
    for (const std::uint64_t session : frame.sessions) forget(session);
    if (!is_last()) out.push_back({place_.index + 1, std::move(frame)});
  }
}

/// What failed here is not passed on: the copy's work will not get past this stage either.
void Runner::fork_due(std::vector<Outgoing>& out, TimePoint now) {
  wire::ForkFrame onward;
  onward.epoch = place_.epoch;
  const auto pass_on = [&] {
    if (!onward.items.empty() && !is_last()) out.push_back({place_.index + 1, onward});
    onward.items.clear();
  };
  for (const wire::ForkItem& item : queue_.take_forks()) {
    if (const auto copied = fork(item, now); !copied) {
      fail_session(item.target, item.entry, copied.error(), out);
      continue;
    }
    onward.items.push_back(item);
    if (onward.items.size() == wire::kMaxItems) pass_on();
  }
  pass_on();
}

Result<void> Runner::fork(const wire::ForkItem& item, TimePoint now) {
  const auto source = places_.find(item.source);
  if (source == places_.end() || source->second.position != item.position ||
      source->second.hash != item.prefix_hash) {
    return fail(ErrorCode::kMismatch, "the session to be copied is not held here as it was named");
  }
  if (places_.contains(item.target)) {
    return fail(ErrorCode::kMismatch, "the copy's name is in use here");
  }
  source->second.last_used = now;
  auto copied = slice_.fork_session(item.source, item.target);
  while (!copied && copied.error().code == ErrorCode::kResourceExhausted &&
         forget_an_idle_session(now) && places_.contains(item.source)) {
    copied = slice_.fork_session(item.source, item.target);
  }
  if (copied) places_.emplace(item.target, Place{item.position, item.prefix_hash, now});
  return copied;
}

Result<void> Runner::admit(const wire::WorkItem& item, TimePoint now) {
  if (item.first_position == 0) return open(item, now);
  const auto found = places_.find(item.session);
  if (found == places_.end()) {
    return fail(ErrorCode::kMismatch,
                fmt::format("the session is not held here, but its work begins at position {}",
                            item.first_position));
  }
  if (found->second.position != item.first_position) {
    return fail(ErrorCode::kMismatch,
                fmt::format("the session is at position {}, but its work begins at {}",
                            found->second.position, item.first_position));
  }
  if (found->second.hash != item.prefix_hash) {
    return fail(ErrorCode::kMismatch,
                fmt::format("the session's {} tokens here are not the ones its work continues",
                            item.first_position));
  }
  found->second.last_used = now;
  return {};
}

Result<void> Runner::open(const wire::WorkItem& item, TimePoint now) {
  forget(item.session);  // a replay begins again with an empty cache
  if (item.prefix_hash != 0) {
    return fail(ErrorCode::kMismatch, "work at position 0 claims a prefix");
  }
  auto opened = slice_.open_session(item.session, item.context);
  while (!opened && opened.error().code == ErrorCode::kResourceExhausted &&
         forget_an_idle_session(now)) {
    opened = slice_.open_session(item.session, item.context);
  }
  if (opened) places_.emplace(item.session, Place{0, 0, now});
  return opened;
}

bool Runner::forget_an_idle_session(TimePoint now) {
  const auto oldest = std::min_element(
      places_.begin(), places_.end(),
      [](const auto& a, const auto& b) { return a.second.last_used < b.second.last_used; });
  if (oldest == places_.end() || now - oldest->second.last_used < idle_after_) return false;
  forget(oldest->first);
  return true;
}

void Runner::run(std::span<Piece> pieces, std::vector<Outgoing>& out) {
  if (const auto ok = forward(pieces); !ok) {
    // No cache has changed. Halving finds the piece that the slice refuses; the others still run.
    if (pieces.size() == 1) {
      return fail_session(pieces[0].item.session, pieces[0].item.entry, ok.error(), out);
    }
    const std::size_t half = pieces.size() / 2;
    run(pieces.first(half), out);
    run(pieces.subspan(half), out);
    return;
  }
  advance(pieces);
  if (is_last()) {
    answer(pieces, out);
  } else {
    pass_on(pieces, out);
  }
}

std::span<const float> Runner::gather_streams(std::span<const Piece> pieces, std::size_t rows) {
  if (slice_.range().has_embedding()) return {};
  const auto of = [&](const Piece& piece) {
    return std::span(*piece.streams)
        .subspan(piece.first_row * floats_per_row_, rows_of(piece.item) * floats_per_row_);
  };
  if (pieces.size() == 1) return of(pieces[0]);
  streams_in_.clear();
  streams_in_.reserve(rows * floats_per_row_);
  for (const Piece& piece : pieces) {
    const auto floats = of(piece);
    streams_in_.insert(streams_in_.end(), floats.begin(), floats.end());
  }
  return streams_in_;
}

Result<void> Runner::forward(std::span<const Piece> pieces) {
  segments_.clear();
  std::size_t wanted = 0;
  for (const Piece& piece : pieces) {
    const bool sample = is_last() && piece.item.sample.has_value();
    wanted += sample;
    segments_.push_back({piece.item.session, piece.item.first_position, piece.item.tokens,
                         sample ? LogitsWanted::kLast : LogitsWanted::kNone});
  }
  const std::size_t rows = rows_of(pieces);
  SliceOutput output;
  if (is_last()) {
    const std::size_t floats = wanted * slice_.params().n_vocab;
    if (logits_.size() < floats) logits_.resize(floats);
    output.logits = std::span(logits_).first(floats);
  } else {
    streams_out_.resize(rows * floats_per_row_);
    output.streams = streams_out_;
  }
  return slice_.forward({segments_, gather_streams(pieces, rows)}, output);
}

void Runner::advance(std::span<const Piece> pieces) {
  for (const Piece& piece : pieces) {
    Place& place = places_.at(piece.item.session);
    place.position = end_of(piece.item);
    place.hash = wire::extend_hash(place.hash, piece.item.tokens);
  }
  rows_done_ += rows_of(pieces);
  ++batches_;
}

void Runner::pass_on(std::span<Piece> pieces, std::vector<Outgoing>& out) {
  wire::WorkFrame frame;
  frame.epoch = place_.epoch;
  frame.items.reserve(pieces.size());
  for (Piece& piece : pieces) frame.items.push_back(std::move(piece.item));
  frame.streams = std::exchange(streams_out_, {});
  out.push_back({place_.index + 1, std::move(frame)});
}

void Runner::answer(std::span<const Piece> pieces, std::vector<Outgoing>& out) {
  const std::size_t n_vocab = slice_.params().n_vocab;
  std::size_t wanted = 0;
  std::vector<wire::TokenFrame> by_entry(place_.count);
  for (const Piece& piece : pieces) {
    wire::Outcome outcome;
    outcome.session = piece.item.session;
    outcome.position = end_of(piece.item);
    if (piece.item.sample) {
      const auto logits = std::span<const float>(logits_).subspan(n_vocab * wanted++, n_vocab);
      const SampledToken sampled = sampler_->sample(logits, *piece.item.sample, outcome.position);
      outcome.token = sampled.token;
      outcome.logprob = sampled.logprob;
    }
    by_entry[piece.item.entry].outcomes.push_back(outcome);
  }
  for (std::uint32_t entry = 0; entry < place_.count; ++entry) {
    if (by_entry[entry].outcomes.empty()) continue;
    by_entry[entry].epoch = place_.epoch;
    out.push_back({entry, std::move(by_entry[entry])});
  }
}

void Runner::fail_session(std::uint64_t session, std::uint32_t entry, const Error& error,
                          std::vector<Outgoing>& out) {
  forget(session);
  wire::ErrorFrame frame;
  frame.epoch = place_.epoch;
  frame.stage = place_.index;
  frame.sessions = {session};
  frame.code = error.code;
  frame.message =
      fmt::format("stage {} ({}): {}", place_.index, slice_.range().to_string(), error.message);
  out.push_back({entry, std::move(frame)});
}

void Runner::forget(std::uint64_t session) {
  if (places_.erase(session) > 0) slice_.close_session(session);
}

}  // namespace ds4::agent
