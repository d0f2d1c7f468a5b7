#include "ipc/client/link.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "ipc/packet.h"
#include "ipc/validate.h"

namespace ds4::ipc {

namespace {

/// Looks without a system call that a program may make in a row before the agent's life is checked.
constexpr std::uint32_t kQuickPolls = 64;

/// Where the program leaves it to the library.
constexpr std::chrono::microseconds kAdaptiveSpin{50};

int milliseconds_until(std::chrono::steady_clock::time_point deadline,
                       std::chrono::steady_clock::time_point now) {
  return static_cast<int>(std::max<std::int64_t>(
      0, std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count()));
}

tl::unexpected<Failure> refused(const Refusal& refusal) {
  return failure(to_c(refusal.status), refusal.sentence);
}

}  // namespace

Link::Link(Dialed dialed, std::uint32_t spin_us, std::uint64_t first_id)
    : limits_{dialed.welcome.vocabulary, dialed.welcome.context, dialed.welcome.max_requests,
              dialed.welcome.max_stop_tokens},
      socket_(std::move(dialed.socket)),
      doorbell_(std::move(dialed.doorbell)),
      wake_(std::move(dialed.wake)),
      region_(std::move(dialed.region)),
      outbox_(region_),
      completions_(region_.completions()),
      sleeper_(&region_.header().client_wants),
      waker_(&region_.header().agent_wants),
      spin_us_(spin_us),
      next_id_(first_id) {}

// ---- Asking ---------------------------------------------------------------------------------

Outcome<std::uint64_t> Link::generate(SubmissionEntry entry, std::span<const std::int32_t> prompt,
                                      std::span<const std::int32_t> stop) {
  auto id = admit();
  if (!id) return id;
  if (prompt.size() > limits_.context)
    return failure(DS4_OUT_OF_RANGE,
                   fmt::format("the prompt has {} tokens, but the context holds {}; shorten it",
                               prompt.size(), limits_.context));
  if (prompt.empty() && entry.session_id == 0)
    return failure(DS4_INVALID, "a new session needs a prompt of at least one token");
  entry.request_id = *id;
  entry.op = static_cast<std::uint16_t>(Op::kGenerate);
  entry.stop_tokens = static_cast<std::uint32_t>(std::min<std::size_t>(stop.size(), UINT32_MAX));
  if (auto refusal = check_fields(entry, limits_)) return refused(*refusal);
  if (stop.size() > region_.shape().arena_tokens)
    return failure(DS4_INVALID, "the stop tokens do not fit into the arena");
  if (auto refusal = check_tokens(prompt, limits_.vocabulary, "prompt token"))
    return refused(*refusal);
  if (auto refusal = check_tokens(stop, limits_.vocabulary, "stop token")) return refused(*refusal);
  start(*id, false);
  outbox_.add(entry, {prompt.begin(), prompt.end()}, {stop.begin(), stop.end()});
  submit_waiting();
  return id;
}

Outcome<std::uint64_t> Link::close_session(std::uint64_t session_id, bool muted) {
  return ask_about(Op::kCloseSession, session_id, muted);
}

Outcome<std::uint64_t> Link::fork_session(std::uint64_t session_id) {
  return ask_about(Op::kForkSession, session_id, false);
}

/// A request that consists of a session.
Outcome<std::uint64_t> Link::ask_about(Op op, std::uint64_t session_id, bool muted) {
  auto id = admit();
  if (!id) return id;
  SubmissionEntry entry;
  entry.request_id = *id;
  entry.op = static_cast<std::uint16_t>(op);
  entry.session_id = session_id;
  entry.top_p = 0;
  if (auto refusal = check_fields(entry, limits_)) return refused(*refusal);
  start(*id, muted);
  outbox_.add(entry);
  submit_waiting();
  return id;
}

Outcome<void> Link::cancel(std::uint64_t request_id) {
  if (find(request_id) == nullptr) return {};
  if (outbox_.cancel(request_id))
    local_finals_.push_back({request_id, Status::kCancelled, {}});
  else
    submit_waiting();
  return {};
}

Outcome<std::uint64_t> Link::admit() {
  if (lost_) return tl::unexpected(*lost_);
  if (limits_.vocabulary == 0)
    return failure(DS4_ROUTE_NOT_READY, "the agent has no model yet; `ds4ctl status` says why");
  if (in_flight_.size() >= limits_.max_requests)
    return failure(DS4_BUSY,
                   fmt::format("{} requests of this connection are in flight, which is the most",
                               in_flight_.size()));
  return next_id_;
}

void Link::start(std::uint64_t id, bool muted) {
  in_flight_.push_back({id, muted, {}});
  next_id_ = id + 1;
}

void Link::submit_waiting() {
  if (outbox_.empty()) return;
  if (outbox_.pump() && waker_.take(kWantEntries)) ring_doorbell();
  if (outbox_.broken() && !lost_)
    lose(Status::kInternal, "the agent's submission positions are impossible");
}

void Link::ring_doorbell() {
  const std::uint64_t one = 1;
  while (::write(doorbell_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

// ---- Waiting --------------------------------------------------------------------------------

Outcome<void> Link::next(ds4_event& event, int timeout_ms) {
  std::optional<Clock::time_point> deadline;  // the clock is asked only when nothing is there
  bool may_spin = timeout_ms != 0;
  for (;;) {
    if (!lost_) submit_waiting();
    if (take_event(event)) return {};
    if (lost_) {
      if (in_flight_.empty()) return tl::unexpected(*lost_);
      end_all();
      continue;
    }
    release_completions();
    if (std::exchange(may_spin, false)) {
      const Clock::time_point now = Clock::now();
      if (timeout_ms > 0) deadline = now + std::chrono::milliseconds(timeout_ms);
      if (spin(now, deadline)) continue;
    }
    // Still armed from the last look, so nothing has been signalled: no system call needed.
    if (timeout_ms == 0 && sleeper_.is_wanting() && outbox_.empty() && ++quick_polls_ < kQuickPolls)
      return failure(DS4_TIMEOUT, {});
    stand_down(timeout_ms == 0);
    if (lost_ || !arm()) continue;
    if (timeout_ms == 0) return failure(DS4_TIMEOUT, {});
    const ds4_status woken = sleep(deadline ? milliseconds_until(*deadline, Clock::now()) : -1);
    if (woken != DS4_OK) return failure(woken, {});
  }
}

/// Before arming anew: a want that was taken is owed a byte, which must not linger in the pipe. A
/// sleep would notice the agent's end by itself; a mere look must ask.
void Link::stand_down(bool check_life) {
  const bool owed = std::exchange(armed_, false) && !sleeper_.awake();
  if (owed || check_life) drain_wake_pipe();
}

/// Says what we sleep for, then looks again. False: there is something to do, do not sleep.
bool Link::arm() {
  armed_ = true;
  sleeper_.want(kWantEntries | (outbox_.empty() ? 0 : kWantSpace));
  if (!completions_.empty_ordered() || completions_.broken()) return false;
  if (outbox_.empty()) return true;
  // The outbox reads the agent's positions in the total order when it lacks room.
  const bool wrote = outbox_.pump();
  if (wrote && waker_.take(kWantEntries)) ring_doorbell();
  return !wrote;
}

/// DS4_OK: look again.
ds4_status Link::sleep(int timeout_ms) {
  pollfd waiting = {wake_.get(), POLLIN, 0};
  const int n = ::poll(&waiting, 1, timeout_ms);
  if (n < 0) return errno == EINTR ? DS4_INTERRUPTED : DS4_OK;
  if (n == 0) return DS4_TIMEOUT;
  armed_ = false;
  drain_wake_pipe();
  return DS4_OK;
}

void Link::drain_wake_pipe() {
  quick_polls_ = 0;
  std::array<char, 64> bytes;
  ssize_t n = 0;
  do n = ::read(wake_.get(), bytes.data(), bytes.size());
  while (n == static_cast<ssize_t>(bytes.size()) || (n < 0 && errno == EINTR));
  if (n == 0) lose_with_farewell();
}

/// True if an event showed up.
bool Link::spin(Clock::time_point now, std::optional<Clock::time_point> deadline) {
  if (spin_us_ == DS4_NEVER) return false;
  if (spin_us_ > 0) {
    const auto end = now + std::chrono::microseconds(spin_us_);
    return look_until(deadline ? std::min(end, *deadline) : end);
  }
  if (!adaptive_.worth_it()) return false;
  const bool won = look_until(now + kAdaptiveSpin);
  won ? adaptive_.won() : adaptive_.lost();
  return won;
}

bool Link::look_until(Clock::time_point end) {
  do {
    for (int i = 0; i < 64; ++i) {
      if (!completions_.empty()) return true;
      relax_cpu();
    }
  } while (Clock::now() < end);
  return false;
}

// ---- Events ---------------------------------------------------------------------------------

bool Link::take_event(ds4_event& event) {
  CompletionEntry entry;
  while (completions_.pop(entry)) {
    ++unreleased_;
    // Not one by one: the agent would be woken for every slot.
    if (unreleased_ >= region_.shape().completion_entries / 4) release_completions();
    if (convert(entry, event)) return true;
  }
  if (completions_.broken() && !lost_)
    lose(Status::kInternal, "the agent's completion position is impossible");
  while (!local_finals_.empty()) {
    LocalFinal local = std::move(local_finals_.front());
    local_finals_.pop_front();
    InFlight* request = find(local.id);
    if (request == nullptr) continue;
    request->message = std::move(local.sentence);
    CompletionEntry made;
    made.status = static_cast<std::uint16_t>(local.status);
    made.set_body(FinalBody{});
    if (convert_final(*request, made, event)) return true;
  }
  return false;
}

bool Link::convert(const CompletionEntry& entry, ds4_event& event) {
  InFlight* request = find(entry.request_id);
  if (request == nullptr) return false;
  event = {};
  event.request = entry.request_id;
  event.stop_token = -1;
  event.sentence = "";
  switch (static_cast<Kind>(entry.kind)) {
    case Kind::kToken: {
      const auto body = entry.body_as<TokenBody>();
      event.kind = DS4_EVENT_TOKEN;
      event.token = body.token;
      event.position = body.position;
      event.logprob = body.logprob;
      return !request->muted;
    }
    case Kind::kProgress: {
      const auto body = entry.body_as<ProgressBody>();
      event.kind = DS4_EVENT_PROGRESS;
      event.done = body.done;
      event.total = body.total;
      return !request->muted;
    }
    case Kind::kMessage:
      if (request->message.size() < kMaxMessageBytes)
        request->message.append(reinterpret_cast<const char*>(entry.body.data()),
                                std::min<std::size_t>(entry.text_bytes, entry.body.size()));
      return false;
    case Kind::kFinal:
      return convert_final(*request, entry, event);
  }
  return false;  // of a later minor version: not meant for us
}

bool Link::convert_final(InFlight& request, const CompletionEntry& entry, ds4_event& event) {
  const auto body = entry.body_as<FinalBody>();
  const Status status{entry.status};
  last_sentence_ =
      request.message.empty() ? std::string(describe(status)) : text_of(request.message);
  event = {};
  event.request = request.id;
  event.kind = DS4_EVENT_FINAL;
  event.status = to_c(status);
  event.stop_token = body.stop_token;
  event.prompt_tokens = body.prompt_tokens;
  event.generated_tokens = body.generated_tokens;
  event.session = body.session_id;
  event.sentence = last_sentence_.c_str();
  const bool muted = request.muted;
  erase(request.id);
  return !muted;
}

void Link::release_completions() {
  if (unreleased_ == 0) return;
  unreleased_ = 0;
  completions_.release_ordered();
  if (waker_.take(kWantSpace)) ring_doorbell();
}

bool Link::is_alive() {
  if (lost_) return false;
  pollfd look = {wake_.get(), POLLIN, 0};
  if (::poll(&look, 1, 0) == 1 && (look.revents & POLLHUP) != 0) lose_with_farewell();
  return !lost_;
}

// ---- Losing the agent -----------------------------------------------------------------------

void Link::lose(Status status, std::string sentence) {
  if (!lost_) lost_ = Failure{to_c(status), std::move(sentence)};
}

/// The wake pipe has hung up. What the agent completed before is in the ring and still to be taken.
void Link::lose_with_farewell() {
  std::array<std::byte, sizeof(Farewell)> buffer;
  for (;;) {
    const auto packet = receive_packet(socket_.get(), buffer, 0);
    if (!packet || !*packet || (*packet)->bytes == 0) break;
    Farewell farewell;
    std::memcpy(&farewell, buffer.data(), sizeof(farewell));
    if ((*packet)->bytes != sizeof(farewell) || farewell.magic != kFarewellMagic) continue;
    const Status status{farewell.status};
    return lose(is_error(status) ? status : Status::kAgentShutdown, text_of(farewell.sentence));
  }
  lose(Status::kAgentShutdown, "the agent went away without a word; connect again");
}

void Link::end_all() {
  const Failure lost = *lost_;  // its status is one of the wire's: lose() takes no other
  local_finals_.clear();
  for (const InFlight& request : in_flight_)
    local_finals_.push_back({request.id, static_cast<Status>(lost.status), lost.sentence});
}

Link::InFlight* Link::find(std::uint64_t id) {
  for (InFlight& request : in_flight_)
    if (request.id == id) return &request;
  return nullptr;
}

void Link::erase(std::uint64_t id) {
  std::erase_if(in_flight_, [&](const InFlight& request) { return request.id == id; });
}

std::uint32_t Link::route_state() const {
  return std::atomic_ref(region_.header().route_state).load(std::memory_order_acquire);
}

}  // namespace ds4::ipc
