// What programs ask of an agent, or of what the library remembers.
#include "ipc/client/caller.h"

#include <fmt/format.h>

#include <algorithm>

namespace ds4::ipc {

namespace {

tl::unexpected<Failure> session_is_busy() {
  return failure(DS4_BUSY, "the session is still answering another request");
}

}  // namespace

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
    if (session->second.agent_id == 0 && is_answering(ask.session)) return session_is_busy();
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
  if (auto linked = ensure_link_for(name); !linked)
    return tl::unexpected(std::move(linked).error());
  const auto session = sessions_.find(name);
  Ask ask;
  ask.op = Op::kCloseSession;
  ask.session = name;
  if (session != sessions_.end() && session->second.agent_id == 0) {
    if (is_answering(name)) return session_is_busy();
    sessions_.erase(session);
    return muted ? take_id() : answer_locally(std::move(ask), DS4_OK_CLOSED, 0);
  }
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
  if (auto linked = ensure_link_for(name); !linked)
    return tl::unexpected(std::move(linked).error());
  const auto session = sessions_.find(name);
  Ask ask;
  ask.op = Op::kForkSession;
  ask.session = name;
  if (session != sessions_.end()) ask.base = session->second.tokens;
  const bool on_agent = session == sessions_.end() || session->second.agent_id != 0;
  if (!on_agent || welcome_.minor < kForkMinor) {  // a copy of the tokens is all there is to copy
    if (session == sessions_.end())
      return failure(DS4_UNKNOWN_SESSION, fmt::format("there is no session {} here", name));
    if (is_answering(name)) return session_is_busy();
    const std::uint64_t copy = add_session(0, 0, ask.base);
    return answer_locally(std::move(ask), DS4_OK_FORKED, copy);
  }
  auto id = link_->fork_session(session != sessions_.end() ? session->second.agent_id : name);
  if (!id) return id;
  ask.id = ask.link_id = *id;
  next_id_ = *id + 1;
  asks_.push_back(std::move(ask));
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
  if (ask == nullptr || has_local_final(id)) return {};
  if (ask->link_id != 0) return link_ ? link_->cancel(ask->link_id) : Outcome<void>{};
  if (keeps(*ask) && ask->delivered > 0)  // as an agent would
    finish_locally(*ask, DS4_CANCELLED, add_session(ask->session, 0, tokens_of(*ask, -1)), {});
  else
    fail_locally(*ask, {DS4_CANCELLED, {}});
  return {};
}

}  // namespace ds4::ipc
