#include "agent/stage/runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <utility>

namespace ds4::agent {
namespace {

/// With sessions open, a longer pause means that nobody is asking, not that work is elsewhere.
constexpr std::chrono::seconds kLongestWait{2};

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

}  // namespace

Runner::Runner(Slice& slice, const StagePlace& place, const StageOptions& options)
    : slice_(slice),
      place_(place),
      floats_per_row_(std::size_t{slice.params().n_streams} * slice.params().n_embd),
      clock_(options.clock),
      queue_(slice.max_rows()),
      planner_(place, slice.max_rows(), options.decode_wait),
      held_(slice, options) {
  assert(slice.range().has_embedding() == (place.index == 0));
  assert(slice.range().output == is_last());
}

bool Runner::streams_fit(const wire::WorkFrame& frame) const {
  std::size_t rows = 0;
  for (const wire::WorkItem& item : frame.items) rows += rows_of(item);
  const std::size_t expected = slice_.range().has_embedding() ? 0 : rows * floats_per_row_;
  return frame.streams.size() == expected;
}

void Runner::accept(wire::WorkFrame frame, std::vector<Outgoing>& out, TimePoint arrived) {
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
  queue_.push(std::move(frame), arrived);
}

void Runner::note_pause(std::chrono::nanoseconds time) {
  if (!held_.empty() && time < kLongestWait) work_.wait += time;
}

void Runner::accept(const wire::CloseFrame& frame) {
  for (const std::uint64_t session : frame.sessions) queue_.push_close(session);
  waiting_orders_ += frame.sessions.size();
}

void Runner::accept(const wire::ForkFrame& frame) {
  for (const wire::ForkItem& item : frame.items) {
    if (item.entry >= place_.count || item.source == item.target) continue;
    queue_.push_fork(item);
    ++waiting_orders_;
  }
}

void Runner::step(std::vector<Outgoing>& out, TimePoint now) {
  close_due(out);
  fork_due(out, now);
  std::vector<Piece> batch = queue_.take_batch(planner_.plan(queue_, now));
  std::vector<Piece> admitted;
  admitted.reserve(batch.size());
  for (Piece& piece : batch) {
    if (const auto ok = held_.admit(piece.item, now); !ok) {
      fail_session(piece.item.session, piece.item.entry, ok.error(), out);
    } else {
      work_.queue += now - piece.arrived;
      ++work_.queue_items;
      admitted.push_back(std::move(piece));
    }
  }
  if (!admitted.empty()) run(admitted, out);
}

void Runner::close_due(std::vector<Outgoing>& out) {
  const std::vector<std::uint64_t> due = queue_.take_closes();
  planner_.forget(due);
  waiting_orders_ -= due.size();
  for (std::size_t begin = 0; begin < due.size(); begin += wire::kMaxItems) {
    const std::size_t end = std::min(due.size(), begin + wire::kMaxItems);
    wire::CloseFrame frame;
    frame.epoch = place_.epoch;
    frame.sessions.assign(due.begin() + begin, due.begin() + end);
    for (const std::uint64_t session : frame.sessions) held_.forget(session);
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
    --waiting_orders_;
    if (const auto copied = held_.fork(item, now); !copied) {
      fail_session(item.target, item.entry, copied.error(), out);
      continue;
    }
    onward.items.push_back(item);
    if (onward.items.size() == wire::kMaxItems) pass_on();
  }
  pass_on();
}

void Runner::run(std::span<Piece> pieces, std::vector<Outgoing>& out) {
  const TimePoint begin = clock_();
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
  if (is_last()) answer(pieces, out);
  const TimePoint end = clock_();
  planner_.ran(pieces, end - begin, end);
  if (!is_last()) pass_on(pieces, out);
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
                         sample ? LogitsWanted::kLast : LogitsWanted::kNone,
                         piece.item.sample.value_or(SamplingParams{})});
  }
  const std::size_t rows = rows_of(pieces);
  SliceOutput output;
  if (is_last()) {
    tokens_.resize(wanted);
    output.tokens = tokens_;
  } else {
    streams_out_.resize(rows * floats_per_row_);
    output.streams = streams_out_;
  }
  const SliceInput input{segments_, gather_streams(pieces, rows)};
  const TimePoint begin = clock_();
  auto done = slice_.forward(input, output);
  work_.compute += clock_() - begin;
  return done;
}

void Runner::advance(std::span<const Piece> pieces) {
  for (const Piece& piece : pieces) {
    held_.advance(piece.item);
    const std::size_t rows = rows_of(piece.item);
    (rows == 1 ? work_.decode_rows : work_.prefill_rows) += rows;
  }
  ++work_.batches;
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
  auto sampled = tokens_.begin();
  std::vector<wire::TokenFrame> by_entry(place_.count);
  for (const Piece& piece : pieces) {
    wire::Outcome outcome;
    outcome.session = piece.item.session;
    outcome.position = end_of(piece.item);
    if (piece.item.sample) {
      outcome.token = sampled->token;
      outcome.logprob = sampled->logprob;
      ++sampled;
      ++work_.tokens;
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
  held_.forget(session);
  wire::ErrorFrame frame;
  frame.epoch = place_.epoch;
  frame.stage = place_.index;
  frame.sessions = {session};
  frame.code = error.code;
  frame.message =
      fmt::format("stage {} ({}): {}", place_.index, slice_.range().to_string(), error.message);
  out.push_back({entry, std::move(frame)});
}

}  // namespace ds4::agent
