#include "ipc/client/caller.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

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
/// How often the route's state is looked at while a request waits for it.
constexpr milliseconds kRouteLook{20};
/// Names for sessions that this library made; agents count from far below.
constexpr std::uint64_t kOwnNames = 1ULL << 63;

bool same_model(const Welcome& a, const Welcome& b) {
  if (a.fingerprint != 0 && b.fingerprint != 0) return a.fingerprint == b.fingerprint;
  return a.model == b.model && a.vocabulary == b.vocabulary && a.context == b.context;
}

milliseconds left_until(std::chrono::steady_clock::time_point deadline) {
  return std::max(milliseconds(0),
                  std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now()));
}

}  // namespace

Caller::Caller(CallerOptions options, Dialed dialed)
    : options_(std::move(options)), welcome_(dialed.welcome), text_(std::move(dialed.metadata)) {
  link_ = std::make_unique<Link>(std::move(dialed), options_.spin_us);
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
  const milliseconds patience =
      options_.reconnect_ms == 0 ? kReconnect : milliseconds(options_.reconnect_ms);
  const Clock::time_point deadline = Clock::now() + patience;
  for (;;) {
    const auto linked = try_link(left_until(deadline));
    if (linked || !ds4_is_retryable(linked.error().status) || Clock::now() >= deadline)
      return linked;
    const auto pause = left_until(std::min(next_attempt_, deadline));
    if (::poll(nullptr, 0, static_cast<int>(pause.count())) < 0 && errno == EINTR)
      return failure(DS4_INTERRUPTED, "a signal interrupted the search for the agent");
  }
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
    finish_locally(ask, DS4_MODEL_CHANGED, 0, "the agent came back with another model");
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

// ---- Asking ---------------------------------------------------------------------------------

Outcome<std::uint64_t> Caller::generate(const Generate& request) {
  if (auto linked = ensure_link(); !linked) return tl::unexpected(std::move(linked).error());
  if (std::exchange(model_changed_, false))
    return failure(
        DS4_MODEL_CHANGED,
        "the agent came back with another model: tokenize again, and begin new sessions");
  Ask ask;
  ask.entry = request.entry;
  ask.session = request.entry.session_id;
  ask.prompt.assign(request.prompt.begin(), request.prompt.end());
  ask.stop.assign(request.stop.begin(), request.stop.end());
  ask.resume = request.resume && options_.reconnect_ms != DS4_NEVER;
  if (const auto session = sessions_.find(ask.session); session != sessions_.end()) {
    if (session->second.agent_id == 0 && is_answering(ask.session))
      return failure(DS4_BUSY, "the session is still answering another request");
    ask.base = session->second.tokens;
  }
  auto id = submit(ask);
  if (!id) return id;
  ask.id = *id;
  asks_.push_back(std::move(ask));
  return id;
}

/// To the present agent, as a continuation where it holds the session, else from the beginning.
Outcome<std::uint64_t> Caller::submit(Ask& ask) {
  SubmissionEntry entry = ask.entry;
  const auto session = sessions_.find(ask.session);
  const bool is_known = session != sessions_.end();
  const bool continues = ask.session != 0 && (!is_known || session->second.agent_id != 0);
  std::vector<std::int32_t> prompt;
  if (is_known) entry.session_id = session->second.agent_id;
  if (!continues) prompt = ask.base;
  ask.shown = static_cast<std::uint32_t>(prompt.size() + ask.answer.size());
  prompt.insert(prompt.end(), ask.prompt.begin(), ask.prompt.end());
  prompt.insert(prompt.end(), ask.answer.begin(), ask.answer.end());
  if (entry.max_tokens != 0) entry.max_tokens -= ask.delivered;
  auto id = link_->generate(entry, prompt, ask.stop);
  if (!id) return id;
  ask.link_id = *id;
  next_id_ = *id + 1;
  return id;
}

Outcome<std::uint64_t> Caller::close_session(std::uint64_t name, bool muted) {
  look_at_link();  // nobody waits for an agent only to have it forget what it no longer holds
  const auto session = sessions_.find(name);
  Ask ask;
  ask.op = Op::kCloseSession;
  ask.session = name;
  if (session != sessions_.end() && session->second.agent_id == 0 && !is_answering(name)) {
    sessions_.erase(session);
    return muted ? take_id() : answer_locally(std::move(ask), DS4_OK_CLOSED, 0);
  }
  if (auto linked = ensure_link(); !linked) return tl::unexpected(std::move(linked).error());
  const std::uint64_t agent_id = session != sessions_.end() ? session->second.agent_id : name;
  auto id = link_->close_session(agent_id, muted);
  if (!id) return id;
  ask.id = ask.link_id = *id;
  next_id_ = *id + 1;
  if (muted)
    sessions_.erase(name);
  else
    asks_.push_back(std::move(ask));
  return id;
}

Outcome<std::uint64_t> Caller::fork_session(std::uint64_t name) {
  const auto session = sessions_.find(name);
  Ask ask;
  ask.op = Op::kForkSession;
  ask.session = name;
  if (session != sessions_.end()) ask.base = session->second.tokens;
  const bool on_agent = session == sessions_.end() || session->second.agent_id != 0;
  if (!on_agent || welcome_.minor < kForkMinor) {  // a copy of the tokens is all there is to copy
    if (session == sessions_.end())
      return failure(DS4_UNKNOWN_SESSION, fmt::format("there is no session {} here", name));
    if (is_answering(name)) return failure(DS4_BUSY, "the session is answering a request");
    const std::uint64_t copy = add_session(0, 0, ask.base);
    return answer_locally(std::move(ask), DS4_OK_FORKED, copy);
  }
  if (auto linked = ensure_link(); !linked) return tl::unexpected(std::move(linked).error());
  if (session != sessions_.end() && session->second.agent_id == 0) return fork_session(name);
  auto id = link_->fork_session(session != sessions_.end() ? session->second.agent_id : name);
  if (!id) return id;
  ask.id = ask.link_id = *id;
  next_id_ = *id + 1;
  asks_.push_back(std::move(ask));
  return id;
}

/// A number that no link's request has or will have.
std::uint64_t Caller::take_id() {
  const std::uint64_t id = next_id_++;
  if (link_) link_->skip_to(next_id_);
  return id;
}

/// A request that needs no agent.
std::uint64_t Caller::answer_locally(Ask ask, ds4_status status, std::uint64_t session) {
  ask.id = take_id();
  finish_locally(ask, status, session, {});
  asks_.push_back(std::move(ask));
  return asks_.back().id;
}

Outcome<void> Caller::cancel(std::uint64_t id) {
  const Ask* ask = find(id);
  if (ask == nullptr) return {};
  if (ask->link_id != 0) return link_ ? link_->cancel(ask->link_id) : Outcome<void>{};
  finish_locally(*ask, DS4_CANCELLED, sessions_.contains(ask->session) ? ask->session : 0, {});
  return {};
}

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
      for (const Ask& ask : asks_)
        finish_locally(ask, linked.error().status, 0, linked.error().sentence);
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
    if (!sent && !ds4_is_retryable(sent.error().status))
      finish_locally(ask, sent.error().status, 0, sent.error().sentence);
  }
}

/// The last token had been delivered, and only the final was lost.
bool Caller::complete_locally(Ask& ask) {
  const std::uint32_t most = ask.entry.max_tokens;
  if ((most == 0 || ask.delivered < most) && held(ask) < welcome_.context) return false;
  const bool keeps = (ask.entry.flags & kFlagKeepSession) != 0;
  finish_locally(ask, DS4_OK_LENGTH, keeps ? add_session(ask.session, 0, tokens_of(ask, -1)) : 0,
                 {});
  if (!keeps) sessions_.erase(ask.session);
  return true;
}

void Caller::give_up_late() {
  const Clock::time_point now = Clock::now();
  for (const Ask& ask : asks_) {
    if (ask.link_id != 0 || !ask.give_up || now < *ask.give_up) continue;
    const std::uint64_t session = sessions_.contains(ask.session) ? ask.session : 0;
    finish_locally(ask, ask.parked_for.status, session, ask.parked_for.sentence);
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
  if (ask.resume || (ask.entry.flags & kFlagKeepSession) != 0) ask.answer.push_back(event.token);
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
  const milliseconds patience =
      options_.reconnect_ms == 0 ? kReconnect : milliseconds(options_.reconnect_ms);
  const Clock::time_point now = Clock::now();
  if (!ask.give_up) ask.give_up = now + patience;
  if (now >= *ask.give_up) return false;
  ask.link_id = 0;
  ask.parked_for = {event.status, event.sentence};
  return true;
}

void Caller::on_generated(Ask& ask, ds4_event& event) {
  event.prompt_tokens = static_cast<std::uint32_t>(ask.prompt.size());
  event.generated_tokens = ask.delivered;
  const bool is_known = sessions_.contains(ask.session);
  if (ds4_is_error(event.status)) {  // leaves a session as it was
    event.session = is_known ? ask.session : event.session;
  } else if (event.session != 0 && (ask.session == 0 || is_known)) {
    event.session = add_session(ask.session, event.session, tokens_of(ask, event.stop_token));
  } else {
    sessions_.erase(ask.session);
  }
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

// ---- Bookkeeping ----------------------------------------------------------------------------

std::uint32_t Caller::held(const Ask& ask) const {
  return static_cast<std::uint32_t>(ask.base.size() + ask.prompt.size() + ask.answer.size());
}

bool Caller::is_answering(std::uint64_t session) const {
  return std::any_of(asks_.begin(), asks_.end(), [&](const Ask& ask) {
    return ask.op == Op::kGenerate && ask.session == session;
  });
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

}  // namespace ds4::ipc
