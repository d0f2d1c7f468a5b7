#include "ipc/client/caller.h"

#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

namespace ds4::ipc {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kReconnect{30'000};
constexpr milliseconds kFirstBackoff{5};
constexpr milliseconds kMostBackoff{500};
/// For one handshake; the least is what even a call that only looks may take.
constexpr milliseconds kLeastDial{100};
constexpr milliseconds kMostDial{2'000};

bool same_model(const Welcome& a, const Welcome& b) {
  if (a.fingerprint != 0 && b.fingerprint != 0) return a.fingerprint == b.fingerprint;
  return a.model == b.model && a.vocabulary == b.vocabulary && a.context == b.context;
}

}  // namespace

Caller::Caller(CallerOptions options, Dialed dialed)
    : options_(std::move(options)), welcome_(dialed.welcome), text_(std::move(dialed.metadata)) {
  link_ = std::make_unique<Link>(std::move(dialed), options_.spin_us);
}

milliseconds Caller::left_until(Clock::time_point deadline) {
  return std::max(milliseconds(0), std::chrono::ceil<milliseconds>(deadline - Clock::now()));
}

milliseconds Caller::patience() const {
  return options_.reconnect_ms == 0 ? kReconnect : milliseconds(options_.reconnect_ms);
}

// ---- The agents -----------------------------------------------------------------------------

/// An idle link is looked at: its agent may have gone, or been replaced.
void Caller::look_at_link() {
  if (link_ && asks_.empty() && !link_->is_alive())
    drop_link({DS4_AGENT_SHUTDOWN, "the agent went away; connect again"});
}

/// Before something is asked.
Outcome<void> Caller::ensure_link() {
  look_at_link();
  if (link_) return {};
  if (options_.reconnect_ms == DS4_NEVER) return tl::unexpected(*lost_);
  const Clock::time_point deadline = Clock::now() + patience();
  for (;;) {
    const auto linked = try_link(left_until(deadline));
    if (linked || !ds4_is_retryable(linked.error().status) || Clock::now() >= deadline)
      return linked;
    const auto pause = left_until(std::min(next_attempt_, deadline));
    if (::poll(nullptr, 0, static_cast<int>(pause.count())) < 0 && errno == EINTR)
      return failure(DS4_INTERRUPTED, "a signal interrupted the search for the agent");
  }
}

/// Before something is asked about a session: nobody waits for an agent that does not hold it. What
/// is known of sessions may change in here.
Outcome<void> Caller::ensure_link_for(std::uint64_t session) {
  look_at_link();
  const auto known = sessions_.find(session);
  if (known != sessions_.end() && known->second.agent_id == 0) return {};
  return ensure_link();
}

Outcome<void> Caller::try_link(milliseconds timeout) {
  DialOptions dial_options = options_.dial;
  dial_options.timeout = std::clamp(timeout, kLeastDial, kMostDial);
  auto dialed = dial(dial_options);
  if (!dialed) {
    backoff_ = std::clamp(backoff_ * 2, kFirstBackoff, kMostBackoff);
    next_attempt_ = Clock::now() + backoff_;
    return tl::unexpected(std::move(dialed).error());
  }
  backoff_ = milliseconds(0);
  adopt(std::move(*dialed));
  return {};
}

void Caller::adopt(Dialed dialed) {
  const bool same = same_model(welcome_, dialed.welcome);
  if (!same && welcome_.vocabulary != 0) forget_model();
  if (!same) text_ = Text(std::move(dialed.metadata));
  welcome_ = dialed.welcome;
  link_ = std::make_unique<Link>(std::move(dialed), options_.spin_us, next_id_);
  lost_.reset();
  ++reconnects_;
  if (!events_) return;
  epoll_event watched = {};
  watched.events = EPOLLIN;
  ::epoll_ctl(events_.get(), EPOLL_CTL_ADD, link_->wake_fd(), &watched);
}

/// Tokens mean something else from now on.
void Caller::forget_model() {
  model_changed_ = true;
  sessions_.clear();
  for (const Ask& ask : asks_)
    fail_locally(ask, {DS4_MODEL_CHANGED, "the agent came back with another model"});
}

void Caller::drop_link(const Failure& why) {
  next_id_ = std::max(next_id_, link_->next_id());
  link_.reset();
  lost_ = why;
  next_attempt_ = Clock::now();
  for (auto& [name, session] : sessions_) session.agent_id = 0;
}

std::uint32_t Caller::route_state() const {
  return link_ ? link_->route_state() : static_cast<std::uint32_t>(RouteState::kStopping);
}

// ---- Bookkeeping ----------------------------------------------------------------------------

bool Caller::keeps(const Ask& ask) {
  return (ask.entry.flags & kFlagKeepSession) != 0;
}

std::uint32_t Caller::held(const Ask& ask) const {
  return static_cast<std::uint32_t>(ask.base.size() + ask.prompt.size() + ask.answer.size());
}

bool Caller::is_answering(std::uint64_t session) const {
  return std::any_of(asks_.begin(), asks_.end(), [&](const Ask& ask) {
    return ask.op == Op::kGenerate && ask.session == session;
  });
}

bool Caller::is_closing(std::uint64_t session) const {
  return std::any_of(asks_.begin(), asks_.end(), [&](const Ask& ask) {
    return ask.op == Op::kCloseSession && ask.session == session;
  });
}

bool Caller::has_local_final(std::uint64_t id) const {
  return std::any_of(local_finals_.begin(), local_finals_.end(),
                     [&](const LocalFinal& final) { return final.event.request == id; });
}

bool Caller::any_parked() const {
  return std::any_of(asks_.begin(), asks_.end(), [](const Ask& ask) { return ask.link_id == 0; });
}

Caller::Ask* Caller::find(std::uint64_t id) {
  const auto at =
      std::find_if(asks_.begin(), asks_.end(), [&](const Ask& a) { return a.id == id; });
  return at == asks_.end() ? nullptr : &*at;
}

Caller::Ask* Caller::find_by_link_id(std::uint64_t link_id) {
  const auto at =
      std::find_if(asks_.begin(), asks_.end(), [&](const Ask& a) { return a.link_id == link_id; });
  return at == asks_.end() ? nullptr : &*at;
}

void Caller::erase(std::uint64_t id) {
  std::erase_if(asks_, [&](const Ask& ask) { return ask.id == id; });
}

/// A number that no link's request has or will have.
std::uint64_t Caller::take_id() {
  const std::uint64_t id = next_id_++;
  if (link_) link_->skip_to(next_id_);
  return id;
}

}  // namespace ds4::ipc
