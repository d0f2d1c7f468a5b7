#include "ipc/server/intake.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>

namespace ds4::ipc {

Intake::Intake(const Region& region, const RequestLimits& limits, TokenBudget* budget)
    : limits_(limits),
      ring_(region.submissions()),
      arena_(region.arena()),
      arena_tokens_(region.shape().arena_tokens),
      arena_head_word_(&region.header().arena_head),
      budget_(budget) {}

Intake::Step Intake::next() {
  last_tokens_ = 0;
  if (broken_) return break_off(std::move(broken_sentence_));
  SubmissionEntry entry;
  if (ring_.pop(entry)) return act(entry);
  if (ring_.broken()) return break_off("the submission ring's position jumped");
  return {};
}

Intake::Step Intake::act(const SubmissionEntry& entry) {
  if (static_cast<Op>(entry.op) == Op::kCancel) return on_cancel(entry);
  if (std::string why = admit_id(entry); !why.empty()) return break_off(std::move(why));
  switch (static_cast<Op>(entry.op)) {
    case Op::kPromptPart:
      return on_part(entry);
    case Op::kGenerate:
      return on_generate(entry);
    default:
      return on_other(entry);
  }
}

Intake::Step Intake::break_off(std::string sentence) {
  broken_ = true;
  broken_sentence_ = std::move(sentence);
  drop_pending();
  Step step;
  step.what = What::kBroken;
  step.sentence = broken_sentence_;
  return step;
}

Intake::Step Intake::accept(Request request) {
  Step step;
  step.what = What::kRequest;
  step.request = std::move(request);
  return step;
}

Intake::Step Intake::refuse(std::uint64_t id, Refusal refusal) {
  Step step;
  step.what = What::kRefused;
  step.id = id;
  step.refusal = std::move(refusal);
  return step;
}

Intake::Step Intake::absorbed() {
  Step step;
  step.what = What::kAbsorbed;
  return step;
}

// ---- Prompts --------------------------------------------------------------------------------

Intake::Step Intake::on_part(const SubmissionEntry& entry) {
  if (std::string why = admit_arena(entry); !why.empty()) return break_off(std::move(why));
  absorb_prompt(entry);
  return absorbed();
}

Intake::Step Intake::on_generate(const SubmissionEntry& entry) {
  if (std::string why = admit_arena(entry); !why.empty()) return break_off(std::move(why));
  absorb_prompt(entry);
  std::vector<std::int32_t> stop;
  if (pending_.refusal) {
    skip_arena(entry.stop_tokens);
  } else {
    stop = take_arena(entry.stop_tokens);
    refuse_pending(check_tokens(stop, limits_.vocabulary, "stop token"));
  }
  if (pending_.prompt_tokens == 0 && entry.session_id == 0)
    refuse_pending(Refusal{Status::kInvalid, "a new session needs a prompt of at least one token"});
  refuse_pending(check_room());

  Pending pending = drop_pending();
  if (pending.refusal) return refuse(entry.request_id, std::move(*pending.refusal));
  in_flight_.push_back(entry.request_id);
  GenerateRequest request;
  request.id = entry.request_id;
  request.session_id = entry.session_id;
  request.prompt = std::move(pending.prompt);
  request.stop = std::move(stop);
  request.max_tokens = entry.max_tokens;
  request.sampling = {entry.temperature, entry.top_p, entry.min_p, entry.top_k, entry.seed};
  request.logprobs = (entry.flags & kFlagLogprobs) != 0;
  request.keep_session = (entry.flags & kFlagKeepSession) != 0;
  request.progress = (entry.flags & kFlagProgress) != 0;
  return accept(std::move(request));
}

void Intake::absorb_prompt(const SubmissionEntry& entry) {
  const bool is_part = static_cast<Op>(entry.op) == Op::kPromptPart;
  pending_.id = entry.request_id;
  pending_.prompt_tokens += entry.prompt_tokens;
  refuse_pending(check_model());
  refuse_pending(check_fields(entry, limits_));
  if (pending_.prompt_tokens > limits_.context)
    refuse_pending(
        Refusal{Status::kOutOfRange,
                fmt::format("the prompt has {}{} tokens, but the context holds {}; shorten it",
                            is_part ? "at least " : "", pending_.prompt_tokens, limits_.context)});
  if (!pending_.refusal && !take_budget(entry.prompt_tokens))
    refuse_pending(Refusal{
        Status::kBusy,
        fmt::format("the prompts that arrive from this user's programs exceed {} tokens together; "
                    "try again later",
                    budget_->most())});
  // What is refused anyway is stepped over, not copied: a flood of it costs the agent little.
  if (pending_.refusal) return skip_arena(entry.prompt_tokens);
  const std::vector<std::int32_t> part = take_arena(entry.prompt_tokens);
  pending_.prompt.insert(pending_.prompt.end(), part.begin(), part.end());
  refuse_pending(check_tokens(part, limits_.vocabulary, "prompt token"));
}

std::vector<std::int32_t> Intake::take_arena(std::uint32_t tokens) {
  std::vector<std::int32_t> out(tokens);
  for (std::uint32_t i = 0; i < tokens; ++i) {
    const std::uint64_t slot = (arena_head_ + i) & (arena_tokens_ - 1);
    out[i] = std::atomic_ref(arena_[slot]).load(std::memory_order_relaxed);
  }
  skip_arena(tokens);
  return out;
}

void Intake::skip_arena(std::uint32_t tokens) {
  arena_head_ += tokens;
  last_tokens_ += tokens;
}

bool Intake::take_budget(std::uint32_t tokens) {
  return budget_ == nullptr || budget_->take(tokens);
}

/// Takes the pending prompt out. What it held of the budget is given back: a request that goes on
/// from here is on the agent's account of it.
Intake::Pending Intake::drop_pending() {
  if (budget_ != nullptr) budget_->give_back(pending_.prompt.size());
  return std::exchange(pending_, {});
}

/// The first reason stands: later ones may be mere consequences.
void Intake::refuse_pending(std::optional<Refusal> refusal) {
  if (!refusal || pending_.refusal) return;
  pending_.refusal = std::move(refusal);
  if (budget_ != nullptr) budget_->give_back(pending_.prompt.size());
  pending_.prompt = {};
}

// ---- The other operations -------------------------------------------------------------------

Intake::Step Intake::on_cancel(const SubmissionEntry& entry) {
  if (entry.request_id == pending_.id && pending_.id != 0) {
    drop_pending();
    return refuse(entry.request_id, {Status::kCancelled, {}});
  }
  if (check_fields(entry, limits_) || !in_flight(entry.request_id)) return absorbed();
  return accept(CancelRequest{entry.request_id});
}

/// Close_session, fork_session, and what this agent does not know.
Intake::Step Intake::on_other(const SubmissionEntry& entry) {
  for (auto check : {check_model(), check_fields(entry, limits_), check_room()})
    if (check) return refuse(entry.request_id, std::move(*check));
  in_flight_.push_back(entry.request_id);
  if (static_cast<Op>(entry.op) == Op::kForkSession) {
    last_tokens_ = limits_.context;
    return accept(ForkSessionRequest{entry.request_id, entry.session_id});
  }
  return accept(CloseSessionRequest{entry.request_id, entry.session_id});
}

// ---- Rules ----------------------------------------------------------------------------------

std::string Intake::admit_id(const SubmissionEntry& entry) {
  const std::uint64_t id = entry.request_id;
  const bool continues_pending = pending_.id != 0 && pending_.id == id;
  if (pending_.id != 0 && !continues_pending)
    return fmt::format("request {} began inside the prompt of request {}", id, pending_.id);
  if (pending_.id != 0 && static_cast<Op>(entry.op) != Op::kPromptPart &&
      static_cast<Op>(entry.op) != Op::kGenerate)
    return fmt::format("operation {} stands inside the prompt of request {}", entry.op, id);
  if (!continues_pending && id <= last_id_)
    return fmt::format("request id {} does not grow: the last one was {}", id, last_id_);
  last_id_ = id;
  return {};
}

std::string Intake::admit_arena(const SubmissionEntry& entry) const {
  if (entry.arena_begin != arena_head_)
    return fmt::format("request {} begins at arena position {} instead of {}", entry.request_id,
                       entry.arena_begin, arena_head_);
  const std::uint64_t tokens = std::uint64_t{entry.prompt_tokens} + entry.stop_tokens;
  const std::uint64_t used =
      static_cast<Op>(entry.op) == Op::kGenerate ? tokens : entry.prompt_tokens;
  if (used > arena_tokens_)
    return fmt::format("request {} claims {} tokens in an arena of {}", entry.request_id, used,
                       arena_tokens_);
  return {};
}

std::optional<Refusal> Intake::check_model() const {
  if (limits_.vocabulary > 0) return std::nullopt;
  return Refusal{Status::kRouteNotReady, {}};
}

std::optional<Refusal> Intake::check_room() const {
  if (in_flight_.size() < limits_.max_requests) return std::nullopt;
  return Refusal{Status::kBusy,
                 fmt::format("{} requests of this connection are in flight, which is the most",
                             in_flight_.size())};
}

void Intake::release_ordered() {
  std::atomic_ref(*arena_head_word_).store(arena_head_, std::memory_order_seq_cst);
  ring_.release_ordered();
}

bool Intake::in_flight(std::uint64_t id) const {
  return std::find(in_flight_.begin(), in_flight_.end(), id) != in_flight_.end();
}

bool Intake::end(std::uint64_t id) {
  const auto at = std::find(in_flight_.begin(), in_flight_.end(), id);
  if (at == in_flight_.end()) return false;
  *at = in_flight_.back();
  in_flight_.pop_back();
  return true;
}

}  // namespace ds4::ipc
