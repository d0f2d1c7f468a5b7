// What the route answers, and what becomes of the route.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "agent/entry/entry_impl.h"

namespace ds4::agent {
namespace {

ipc::Status status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return ipc::Status::kInvalid;
    case ErrorCode::kOutOfRange:
      return ipc::Status::kOutOfRange;
    case ErrorCode::kResourceExhausted:
      return ipc::Status::kBusy;
    case ErrorCode::kUnavailable:
    case ErrorCode::kTimeout:
      return ipc::Status::kPeerLost;
    default:
      return ipc::Status::kInternal;
  }
}

}  // namespace

void Entry::Impl::outcome(const wire::Outcome& outcome) {
  Session* session = find_by_route_id(outcome.session);
  if (session == nullptr || outcome.position > session->fed()) return;
  session->moved = now;
  acknowledge(*session, outcome.position);
  if (!session->answering) return;
  report_progress(*session, outcome.position);
  const bool awaited = session->answering->phase == Answering::Phase::kAwaiting &&
                       outcome.position == session->size();
  if (awaited && outcome.token >= 0) deliver(*session, outcome);
}

void Entry::Impl::report_progress(Session& session, std::uint32_t position) {
  Answering& request = *session.answering;
  if (!request.progress || position <= request.prompt_begin) return;
  const auto done = static_cast<std::uint32_t>(
      std::min<std::size_t>(position - request.prompt_begin, request.prompt_tokens));
  if (done <= request.progress_done) return;
  request.progress_done = done;
  port.progress(request.client, request.id, done, request.prompt_tokens);
}

void Entry::Impl::deliver(Session& session, const wire::Outcome& outcome) {
  Answering& request = *session.answering;
  request.attempts = 0;
  end_step(session);
  append(session, {&outcome.token, 1});
  if (std::find(request.stop.begin(), request.stop.end(), outcome.token) != request.stop.end()) {
    return finish(session, ipc::Status::kOkStop, "", outcome.token);
  }
  ++request.generated;
  port.token(request.client, request.id, outcome.token, outcome.position,
             request.logprobs ? outcome.logprob : 0);
  if (request.generated >= request.most_tokens || session.size() >= config.context) {
    return finish(session, ipc::Status::kOkLength, "");
  }
  if (port.can_take(request.client)) return feed(session);
  request.phase = Answering::Phase::kPaused;
  paused[request.client].push_back(session.id());
}

void Entry::Impl::error(const wire::ErrorFrame& error) {
  for (const std::uint64_t route_id : error.sessions) {
    Session* session = find_by_route_id(route_id);
    if (session == nullptr) continue;
    if (session->answering) {
      item_failed(*session, error);
    } else {
      give_up_cache(*session);
    }
  }
}

void Entry::Impl::item_failed(Session& session, const wire::ErrorFrame& error) {
  Answering& request = *session.answering;
  if (error.code == ErrorCode::kMismatch) {
    if (request.attempts++ < kMaxAttempts) return replay(session);
    return finish(session, ipc::Status::kPeerLost,
                  fmt::format("the route lost the session {} times; try again (the last time: {})",
                              request.attempts, error.message));
  }
  if (error.code == ErrorCode::kResourceExhausted && give_up_an_idle_cache()) {
    return replay(session);
  }
  finish(session, status_of(error.code), error.message);
}

void Entry::Impl::replay(Session& session) {
  give_up_cache(session);
  // A paused request replays when its client has room.
  if (session.answering->phase != Answering::Phase::kPaused) feed(session);
}

void Entry::Impl::lose_all_caches() {
  closes_owed.clear();
  closes_sent.clear();
  for (const auto& [id, session] : by_id) forget_cache(*session);
}

void Entry::Impl::end_all(ipc::Status status, const std::string& sentence) {
  std::vector<Session*> busy;
  for (const auto& [key, session] : requests) busy.push_back(session);
  for (Session* session : busy) finish(*session, status, sentence);
}

void Entry::Impl::route(const RouteView& view) {
  if (stopped) return;
  const bool changed = view.serial != serial;
  if (ready && !view.ready) owe_closes_sent();
  ready = view.ready;
  state = view.state;
  serial = view.serial;
  entry_index = view.entry_index;
  stages = view.stages;
  reason = view.reason;
  if (changed) lose_all_caches();
  if (!ready) {
    end_all(ipc::Status::kPeerLost,
            reason.empty() ? "" : fmt::format("the answer was interrupted: {}; try again", reason));
    // Nobody may acknowledge what is in flight for the others any more.
    for (const auto& [id, session] : by_id) {
      if (session->chunks_in_flight() > 0) give_up_cache(*session);
    }
    return;
  }
  for (const std::uint64_t route_id : std::exchange(closes_owed, {})) send_close(route_id);
  if (!changed) return;
  for (const auto& [key, session] : requests) {
    if (session->answering->phase != Answering::Phase::kPaused) feed(*session);
  }
}

void Entry::Impl::shut_down() {
  if (std::exchange(stopped, true)) return;
  for (const auto& [id, session] : by_id) {
    if (session->answering) {
      session->answering->keep = false;
      session->answering->continues = false;
    }
  }
  end_all(ipc::Status::kAgentShutdown, "");
  while (!by_id.empty()) drop(*by_id.begin()->second);
  paused.clear();
}

}  // namespace ds4::agent
