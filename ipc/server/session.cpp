#include "ipc/server/session.h"

#include <atomic>

namespace ds4::ipc {

Session::Session(Region region, const RequestLimits& limits, TokenBudget* budget)
    : region_(std::move(region)),
      intake_(region_, limits, budget),
      outlet_(region_),
      sleeper_(&region_.header().agent_wants),
      waker_(&region_.header().client_wants),
      // A caller that heeds can_take() queues at most a token that was on its way and a final for
      // each request in flight; nothing new is read while anything is queued.
      most_queued_(std::size_t{limits.max_requests + 8} * kTokenRoom) {}

bool Session::work(Sink& sink) {
  sleeper_.awake();
  outlet_.drain();
  const bool more = consume(sink);
  if (starved_ && outlet_.has_room()) {
    starved_ = false;
    sink.on_space();
  }
  return more && !broken();
}

/// True if the turn's budget ended before the ring did.
bool Session::consume(Sink& sink) {
  std::uint32_t entries = 0;
  std::uint32_t tokens = 0;
  bool more = true;
  while (more && entries < kEntriesPerTurn && tokens < kTokensPerTurn && outlet_.queued() == 0) {
    Intake::Step step = intake_.next();
    tokens += intake_.last_tokens();
    ++entries;
    switch (step.what) {
      case Intake::What::kRequest:
        sink.on_request(std::move(step.request));
        break;
      case Intake::What::kRefused:
        outlet_.final(step.id, step.refusal.status, step.refusal.sentence, {});
        break;
      case Intake::What::kBroken:
        was_busy_ = false;
        broken_ = std::move(step.sentence);
        return false;
      case Intake::What::kNothing:
        --entries;
        more = false;
        break;
      case Intake::What::kAbsorbed:
        break;
    }
  }
  was_busy_ = entries > 0;
  if (was_busy_) {
    intake_.release_ordered();
    made_room_ = true;
  }
  return more && outlet_.queued() == 0;
}

bool Session::arm() {
  if (broken()) return false;
  const bool blocked = outlet_.queued() > 0;
  sleeper_.want(kWantEntries | (blocked || starved_ ? kWantSpace : 0));
  if (blocked) return outlet_.has_space_ordered(1);
  if (starved_ && outlet_.has_space_ordered(kTokenRoom)) return true;
  return !intake_.empty_ordered();
}

// ---- Answers --------------------------------------------------------------------------------

bool Session::can_take() {
  if (outlet_.has_room()) return true;
  starved_ = true;
  return false;
}

void Session::token(std::uint64_t request_id, std::int32_t token, std::uint32_t position,
                    float logprob) {
  if (intake_.in_flight(request_id)) outlet_.token(request_id, token, position, logprob);
}

void Session::progress(std::uint64_t request_id, std::uint32_t done, std::uint32_t total) {
  if (intake_.in_flight(request_id)) outlet_.progress(request_id, done, total);
}

void Session::finish(std::uint64_t request_id, const Server::Final& final) {
  if (!intake_.end(request_id)) return;
  FinalBody body;
  body.session_id = final.session_id;
  body.prompt_tokens = final.prompt_tokens;
  body.generated_tokens = final.generated_tokens;
  body.stop_token = final.stop_token;
  outlet_.final(request_id, final.status, final.sentence, body);
}

void Session::set_route_state(RouteState state) {
  std::atomic_ref(region_.header().route_state)
      .store(static_cast<std::uint32_t>(state), std::memory_order_release);
}

bool Session::flush() {
  outlet_.publish_ordered();
  const std::uint32_t bits = kWantEntries | (made_room_ ? kWantSpace : 0);
  made_room_ = false;
  return waker_.take(bits);
}

std::optional<std::string> Session::broken() const {
  if (!broken_.empty()) return broken_;
  if (intake_.broken()) return "the submission ring's position jumped";
  if (outlet_.broken()) return "the completion ring's position jumped";
  if (outlet_.queued() > most_queued_) return "the program does not read the answers it asked for";
  return std::nullopt;
}

}  // namespace ds4::ipc
