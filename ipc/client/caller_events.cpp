// What programs are told: events of the link in their words, and finals that no agent sends.
#include "ipc/client/caller.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <cerrno>

namespace ds4::ipc {

namespace {

using std::chrono::milliseconds;

/// How often the route's state is looked at while a request waits for it.
constexpr milliseconds kRouteLook{20};
/// Names for sessions that this library made; agents count from far below.
constexpr std::uint64_t kOwnNames = 1ULL << 63;

}  // namespace

// ---- Waiting --------------------------------------------------------------------------------

Outcome<void> Caller::next(ds4_event& event, int timeout_ms) {
  std::optional<Clock::time_point> deadline;
  for (;;) {
    if (take_local(event)) return {};
    const bool waits = any_parked();
    if (!waits && link_) {
      const auto got = link_->next(
          event, deadline ? static_cast<int>(left_until(*deadline).count()) : timeout_ms);
      if (got && translate(event)) return {};
      if (!got && (got.error().status == DS4_TIMEOUT || got.error().status == DS4_INTERRUPTED))
        return got;
      if (!got) drop_link(got.error());
      // What was swallowed has used up time.
      if (timeout_ms > 0 && !deadline) deadline = Clock::now() + milliseconds(timeout_ms);
      continue;
    }
    if (!waits) return tl::unexpected(*lost_);
    if (timeout_ms >= 0 && !deadline) deadline = Clock::now() + milliseconds(timeout_ms);
    const int left = deadline ? static_cast<int>(left_until(*deadline).count()) : 1000;
    const auto got = wait_parked(event, left);
    if (got) return {};
    if (got.error().status == DS4_INTERRUPTED) return got;
    if (!local_finals_.empty()) continue;
    if (deadline && Clock::now() >= *deadline) {
      set_timer();
      return failure(DS4_TIMEOUT, {});
    }
  }
}

/// A step towards resuming what is parked, at most about `slice_ms` long. DS4_TIMEOUT: look again.
Outcome<void> Caller::wait_parked(ds4_event& event, int slice_ms) {
  if (!link_ && Clock::now() >= next_attempt_) {
    const auto linked = try_link(milliseconds(slice_ms));
    if (!linked && !ds4_is_retryable(linked.error().status))
      for (const Ask& ask : asks_) fail_locally(ask, linked.error());
    if (!local_finals_.empty()) return failure(DS4_TIMEOUT, {});  // nothing is left to resume
  }
  if (link_ && route_state() == static_cast<std::uint32_t>(RouteState::kReady)) resubmit_parked();
  give_up_late();
  if (!local_finals_.empty()) return failure(DS4_TIMEOUT, {});
  const auto most = link_ ? kRouteLook : std::max(milliseconds(1), left_until(next_attempt_));
  const int slice = static_cast<int>(std::min<std::int64_t>(slice_ms, most.count()));
  if (!link_) {
    if (::poll(nullptr, 0, slice) < 0 && errno == EINTR) return failure(DS4_INTERRUPTED, {});
    return failure(DS4_TIMEOUT, {});
  }
  const auto got = link_->next(event, any_parked() ? slice : slice_ms);
  if (got) return translate(event) ? Outcome<void>{} : failure(DS4_TIMEOUT, {});
  if (got.error().status == DS4_TIMEOUT || got.error().status == DS4_INTERRUPTED) return got;
  drop_link(got.error());
  return failure(DS4_TIMEOUT, {});
}

void Caller::resubmit_parked() {
  for (Ask& ask : asks_) {
    if (ask.link_id != 0 || ask.op != Op::kGenerate || complete_locally(ask)) continue;
    const auto sent = submit(ask);
    if (!sent && !ds4_is_retryable(sent.error().status)) fail_locally(ask, sent.error());
  }
}

/// The last token had been delivered, and only the final was lost.
bool Caller::complete_locally(Ask& ask) {
  const std::uint32_t most = ask.entry.max_tokens;
  if ((most == 0 || ask.delivered < most) && held(ask) < welcome_.context) return false;
  const std::uint64_t session = keeps(ask) ? add_session(ask.session, 0, tokens_of(ask, -1)) : 0;
  finish_locally(ask, DS4_OK_LENGTH, session, {});
  if (session == 0) sessions_.erase(ask.session);
  return true;
}

void Caller::give_up_late() {
  const Clock::time_point now = Clock::now();
  for (const Ask& ask : asks_) {
    if (ask.link_id == 0 && ask.give_up && now >= *ask.give_up) fail_locally(ask, ask.parked_for);
  }
}

// ---- Events ---------------------------------------------------------------------------------

/// From the link's words into the program's. False: not for the program.
bool Caller::translate(ds4_event& event) {
  Ask* ask = find_by_link_id(event.request);
  if (ask == nullptr) return false;
  event.request = ask->id;
  switch (event.kind) {
    case DS4_EVENT_TOKEN:
      return on_token(*ask, event);
    case DS4_EVENT_PROGRESS:
      return on_progress(*ask, event);
    default:
      return on_final(*ask, event);
  }
}

bool Caller::on_token(Ask& ask, const ds4_event& event) {
  ++ask.delivered;
  ask.give_up.reset();
  if (ask.resume || keeps(ask)) ask.answer.push_back(event.token);
  return true;
}

/// Of what the program gave; what the library shows again is its own affair.
bool Caller::on_progress(const Ask& ask, ds4_event& event) {
  if (ask.delivered > 0) return false;
  event.total -= std::min(event.total, ask.shown);
  if (event.done <= ask.shown) return false;
  event.done -= ask.shown;
  return true;
}

bool Caller::on_final(Ask& ask, ds4_event& event) {
  if (ask.resume && park(ask, event)) return false;
  if (ask.op == Op::kGenerate)
    on_generated(ask, event);
  else if (ask.op == Op::kForkSession)
    on_forked(ask, event);
  else
    sessions_.erase(ask.session);
  erase(ask.id);
  return true;
}

bool Caller::park(Ask& ask, const ds4_event& event) {
  if (event.status != DS4_AGENT_SHUTDOWN && event.status != DS4_PEER_LOST &&
      event.status != DS4_ROUTE_NOT_READY)
    return false;
  const Clock::time_point now = Clock::now();
  if (!ask.give_up) ask.give_up = now + patience();
  if (now >= *ask.give_up) return false;
  ask.link_id = 0;
  ask.parked_for = {event.status, event.sentence};
  return true;
}

void Caller::on_generated(Ask& ask, ds4_event& event) {
  event.prompt_tokens = static_cast<std::uint32_t>(ask.prompt.size());
  event.generated_tokens = ask.delivered;
  const bool is_known = sessions_.contains(ask.session);
  if (ds4_is_error(event.status) || was_taken_back(ask, event)) {  // leaves a session as it was
    event.session = is_known ? ask.session : event.session;
  } else if (event.session != 0 && (ask.session == 0 || is_known)) {
    event.session = add_session(ask.session, event.session, tokens_of(ask, event.stop_token));
  } else {
    sessions_.erase(ask.session);
  }
}

/// Cancelled before the agent had read all of it, so that it does not name the session it keeps.
bool Caller::was_taken_back(const Ask& ask, const ds4_event& event) const {
  return event.status == DS4_CANCELLED && event.session == 0 && keeps(ask) &&
         !is_closing(ask.session);
}

void Caller::on_forked(Ask& ask, ds4_event& event) {
  if (event.status == DS4_OK_FORKED) {
    event.session = add_session(0, event.session, std::move(ask.base));
  } else if (event.status == DS4_AGENT_SHUTDOWN && sessions_.contains(ask.session)) {
    event.status = DS4_OK_FORKED;  // the tokens are here, and no agent holds more any longer
    event.session = add_session(0, 0, std::move(ask.base));
    event.sentence = ds4_status_text(DS4_OK_FORKED);
  }
}

/// `name` 0: the agent's, unless there is none or it is taken. Returns the program's name.
std::uint64_t Caller::add_session(std::uint64_t name, std::uint64_t agent_id,
                                  std::vector<std::int32_t> tokens) {
  if (name == 0 && agent_id != 0 && !sessions_.contains(agent_id)) name = agent_id;
  if (name == 0) name = kOwnNames | ++own_names_;
  sessions_[name] = {agent_id, std::move(tokens)};
  return name;
}

std::vector<std::int32_t> Caller::tokens_of(const Ask& ask, std::int32_t stop_token) const {
  std::vector<std::int32_t> tokens = ask.base;
  tokens.insert(tokens.end(), ask.prompt.begin(), ask.prompt.end());
  tokens.insert(tokens.end(), ask.answer.begin(), ask.answer.end());
  if (stop_token >= 0) tokens.push_back(stop_token);
  return tokens;
}

/// Leaves a session as it was.
void Caller::fail_locally(const Ask& ask, const Failure& why) {
  finish_locally(ask, why.status, sessions_.contains(ask.session) ? ask.session : 0, why.sentence);
}

void Caller::finish_locally(const Ask& ask, ds4_status status, std::uint64_t session,
                            std::string sentence) {
  LocalFinal final;
  final.event = {};
  final.event.request = ask.id;
  final.event.kind = DS4_EVENT_FINAL;
  final.event.status = status;
  final.event.stop_token = -1;
  final.event.prompt_tokens = static_cast<std::uint32_t>(ask.prompt.size());
  final.event.generated_tokens = ask.delivered;
  final.event.session = session;
  final.sentence = sentence.empty() ? ds4_status_text(status) : std::move(sentence);
  local_finals_.push_back(std::move(final));
}

bool Caller::take_local(ds4_event& event) {
  while (!local_finals_.empty()) {
    LocalFinal final = std::move(local_finals_.front());
    local_finals_.pop_front();
    if (find(final.event.request) == nullptr) continue;  // ended in another way meanwhile
    event = final.event;
    last_sentence_ = std::move(final.sentence);
    event.sentence = last_sentence_.c_str();
    erase(event.request);
    return true;
  }
  return false;
}

// ---- The event descriptor -------------------------------------------------------------------

int Caller::event_fd() {
  if (events_) return events_.get();
  UniqueFd events(::epoll_create1(EPOLL_CLOEXEC));
  UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!events || !timer) return -1;
  epoll_event watched = {};
  watched.events = EPOLLIN;
  if (::epoll_ctl(events.get(), EPOLL_CTL_ADD, timer.get(), &watched) != 0) return -1;
  if (link_ && ::epoll_ctl(events.get(), EPOLL_CTL_ADD, link_->wake_fd(), &watched) != 0) return -1;
  events_ = std::move(events);
  timer_ = std::move(timer);
  return events_.get();
}

/// The program is about to wait on the descriptor, and something parked wants to be looked at.
void Caller::set_timer() {
  if (!timer_) return;
  const milliseconds in = link_ ? kRouteLook : std::max(milliseconds(1), left_until(next_attempt_));
  itimerspec when = {};
  when.it_value.tv_sec = in.count() / 1000;
  when.it_value.tv_nsec = in.count() % 1000 * 1'000'000;
  ::timerfd_settime(timer_.get(), 0, &when, nullptr);  // also takes back an expiry not yet read
}

}  // namespace ds4::ipc
