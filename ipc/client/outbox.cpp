#include "ipc/client/outbox.h"

#include <algorithm>
#include <atomic>

namespace ds4::ipc {

namespace {

SubmissionEntry bare_entry(Op op, std::uint64_t request_id) {
  SubmissionEntry entry;
  entry.request_id = request_id;
  entry.op = static_cast<std::uint16_t>(op);
  entry.top_p = 0;  // only a generate has it
  return entry;
}

}  // namespace

Outbox::Outbox(const Region& region)
    : ring_(region.submissions()),
      arena_(region.arena()),
      arena_tokens_(region.shape().arena_tokens),
      arena_head_word_(&region.header().arena_head) {}

void Outbox::add(const SubmissionEntry& entry, std::vector<std::int32_t> prompt,
                 std::vector<std::int32_t> stop) {
  waiting_.push_back({entry, std::move(prompt), std::move(stop), 0});
}

bool Outbox::cancel(std::uint64_t request_id) {
  const auto at = std::find_if(waiting_.begin(), waiting_.end(), [&](const Waiting& waiting) {
    return waiting.entry.request_id == request_id;
  });
  const bool untouched = at != waiting_.end() && at->sent == 0;
  // The rest of a prompt half sent is dropped: the cancel takes its place, and ends the request.
  if (at != waiting_.end()) waiting_.erase(at);
  if (!untouched) urgent_.push_back(bare_entry(Op::kCancel, request_id));
  return untouched;
}

bool Outbox::pump() {
  bool wrote = false;
  // In the single total order, since this may follow one's own want for space (waker.h).
  if (!empty()) ring_.refresh_ordered();
  while (!urgent_.empty() && ring_.push(urgent_.front())) {
    urgent_.pop_front();
    wrote = true;
  }
  while (urgent_.empty() && !waiting_.empty() && pump_one(waiting_.front())) {
    wrote = true;
    // A part leaves its request in front, its generate takes it away.
    if (waiting_.front().sent == SIZE_MAX) waiting_.pop_front();
  }
  if (wrote) ring_.publish_ordered();
  return wrote;
}

/// One entry of this request, if there is room for it. `sent` becomes SIZE_MAX with the last one.
bool Outbox::pump_one(Waiting& waiting) {
  const std::size_t rest = waiting.prompt.size() - waiting.sent;
  const std::size_t whole = rest + waiting.stop.size();
  const bool fits_at_once = whole <= arena_tokens_;
  // Halves, so that one can be written while the agent reads the other.
  const std::size_t tokens = fits_at_once ? whole : std::min<std::size_t>(rest, arena_tokens_ / 2);
  if (arena_room() < tokens) refresh_arena();
  if (arena_room() < tokens || ring_.space() == 0) return false;

  SubmissionEntry entry =
      fits_at_once ? waiting.entry : bare_entry(Op::kPromptPart, waiting.entry.request_id);
  const bool has_arena = !fits_at_once || static_cast<Op>(entry.op) == Op::kGenerate;
  if (has_arena) {
    entry.arena_begin = arena_tail_;
    entry.prompt_tokens = static_cast<std::uint32_t>(fits_at_once ? rest : tokens);
    write_arena(waiting.prompt.data() + waiting.sent, entry.prompt_tokens);
    if (fits_at_once) {
      entry.stop_tokens = static_cast<std::uint32_t>(waiting.stop.size());
      write_arena(waiting.stop.data(), waiting.stop.size());
    }
  }
  ring_.push(entry);
  waiting.sent = fits_at_once ? SIZE_MAX : waiting.sent + tokens;
  return true;
}

void Outbox::write_arena(const std::int32_t* tokens, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i)
    std::atomic_ref(arena_[(arena_tail_ + i) & (arena_tokens_ - 1)])
        .store(tokens[i], std::memory_order_relaxed);
  arena_tail_ += count;
}

void Outbox::refresh_arena() {
  const std::uint64_t head = std::atomic_ref(*arena_head_word_).load(std::memory_order_seq_cst);
  if (head - arena_head_ > arena_tail_ - arena_head_)
    broken_ = true;
  else
    arena_head_ = head;
}

}  // namespace ds4::ipc
