// What clients ask.
#include <fmt/format.h>

#include <algorithm>

#include "agent/entry/entry_impl.h"

namespace ds4::agent {
namespace {

SamplingParams params_of(const ipc::Sampling& sampling) {
  return {sampling.temperature, sampling.top_p, sampling.min_p, sampling.top_k, sampling.seed};
}

std::string too_long(std::size_t prompt, std::size_t held, std::uint32_t context) {
  if (held == 0) {
    return fmt::format(
        "the prompt has {} tokens, but the context holds {} with the answer: shorten "
        "it",
        prompt, context);
  }
  return fmt::format(
      "the prompt has {} tokens and the session holds {}, but the context holds {} "
      "with the answer: shorten the prompt or begin a new session",
      prompt, held, context);
}

}  // namespace

Entry::Impl::Refusal Entry::Impl::unknown(std::uint64_t session) {
  return {ipc::Status::kUnknownSession,
          fmt::format("session {} is not one of this connection's: begin a new one", session)};
}

Entry::Impl::Refusal Entry::Impl::still_answering(const Session& session) {
  return {ipc::Status::kBusy,
          fmt::format("session {} is still answering request {}: wait for it or cancel it",
                      session.id(), session.answering->id)};
}

/// What cannot succeed later comes before what can.
std::optional<Entry::Impl::Refusal> Entry::Impl::check(ipc::ClientId client,
                                                       const ipc::GenerateRequest& request,
                                                       const Session* session) const {
  using ipc::Status;
  if (stopped) return Refusal{Status::kAgentShutdown, ""};
  if (request.session_id != 0 && session == nullptr) return unknown(request.session_id);
  if (session == nullptr && request.prompt.empty()) {
    return Refusal{Status::kInvalid, "a new session needs a prompt of at least one token"};
  }
  const std::size_t held = session == nullptr ? 0 : session->size();
  if (held + request.prompt.size() >= config.context) {
    return Refusal{Status::kOutOfRange, too_long(request.prompt.size(), held, config.context)};
  }
  if (draining) {
    return Refusal{
        Status::kBusy,
        "this machine takes no new requests, because of planned work on it: try again later"};
  }
  if (!ready) {
    if (state == ipc::RouteState::kStopping) return Refusal{Status::kAgentShutdown, ""};
    return Refusal{Status::kRouteNotReady,
                   reason.empty() ? "" : fmt::format("the model is not ready: {}", reason)};
  }
  if (session != nullptr && session->answering) return still_answering(*session);
  return check_room(client, session, request.prompt.size());
}

std::optional<Entry::Impl::Refusal> Entry::Impl::check_fork(ipc::ClientId client,
                                                            const ipc::ForkSessionRequest& request,
                                                            const Session* session) const {
  if (stopped) return Refusal{ipc::Status::kAgentShutdown, ""};
  if (session == nullptr) return unknown(request.session_id);
  if (session->answering) return still_answering(*session);
  return check_room(client, nullptr, session->size());
}

/// Null: for a session more.
std::optional<Entry::Impl::Refusal> Entry::Impl::check_room(ipc::ClientId client,
                                                            const Session* session,
                                                            std::size_t more_tokens) const {
  using ipc::Status;
  if (session == nullptr && by_id.size() >= config.max_sessions) {
    return Refusal{Status::kBusy,
                   fmt::format("all {} sessions of this agent are taken: close one, or try again "
                               "later",
                               config.max_sessions)};
  }
  const UserId id = port.user_of(client);
  const auto user = users.find(id);
  if (user == users.end()) return std::nullopt;
  if (session == nullptr && user->second.sessions >= config.max_sessions_per_user) {
    return Refusal{Status::kBusy,
                   fmt::format("user {} has {} sessions, which is the most for one user: close one",
                               id, user->second.sessions)};
  }
  if (user->second.tokens + more_tokens > config.max_tokens_per_user) {
    return Refusal{Status::kBusy,
                   fmt::format("the sessions of user {} hold {} tokens, and {} more exceed the {} "
                               "of one user: close some",
                               id, user->second.tokens, more_tokens, config.max_tokens_per_user)};
  }
  return std::nullopt;
}

Session& Entry::Impl::add_session(ipc::ClientId client) {
  const std::uint64_t id = next_id();
  const UserId user = port.user_of(client);
  ++users[user].sessions;
  return *by_id.emplace(id, std::make_unique<Session>(id, client, user)).first->second;
}

Session& Entry::Impl::begin(ipc::ClientId client, ipc::GenerateRequest& request, Session* session) {
  const bool continues = session != nullptr;
  if (!continues) session = &add_session(client);
  session->last_used = ++uses;
  if (users.at(session->user()).answering++ == 0) ++users_answering;
  Answering& answering = session->answering.emplace();
  answering.client = client;
  answering.id = request.id;
  answering.continues = continues;
  answering.prompt_begin = session->size();
  answering.prompt_tokens = static_cast<std::uint32_t>(request.prompt.size());
  answering.most_tokens = request.max_tokens == 0 ? config.context : request.max_tokens;
  answering.stop = std::move(request.stop);
  answering.sampling = params_of(request.sampling);
  answering.logprobs = request.logprobs;
  answering.keep = request.keep_session;
  answering.progress = request.progress;
  append(*session, request.prompt);
  requests.emplace(std::pair(client, request.id), session);
  return *session;
}

void Entry::Impl::generate(ipc::ClientId client, ipc::GenerateRequest request) {
  Session* session = request.session_id == 0 ? nullptr : find(client, request.session_id);
  if (const auto refusal = check(client, request, session)) {
    ipc::Server::Final final;
    final.status = refusal->status;
    final.sentence = refusal->sentence;
    final.session_id = session == nullptr ? 0 : session->id();
    port.finish(client, request.id, final);
    return;
  }
  Session& begun = begin(client, request, session);
  // The model gives its next token only for a token it is fed: if it has had them all (a cancelled
  // decode step), it has to have them again.
  if (begun.unfed() == 0) give_up_cache(begun);
  feed(begun);
}

void Entry::Impl::cancel(ipc::ClientId client, const ipc::CancelRequest& request) {
  const auto found = requests.find({client, request.id});
  if (found != requests.end()) finish(*found->second, ipc::Status::kCancelled, "");
}

void Entry::Impl::close_session(ipc::ClientId client, const ipc::CloseSessionRequest& request) {
  ipc::Server::Final final;
  Session* session = find(client, request.session_id);
  if (session == nullptr) {
    final.status = ipc::Status::kUnknownSession;
    final.sentence = fmt::format("session {} is not one of this connection's", request.session_id);
  } else {
    final.status = ipc::Status::kOkClosed;
    if (session->answering) {
      session->answering->keep = false;
      finish(*session, ipc::Status::kCancelled, "");
    } else {
      drop(*session);
    }
  }
  port.finish(client, request.id, final);
}

void Entry::Impl::fork_session(ipc::ClientId client, const ipc::ForkSessionRequest& request) {
  const Session* source = find(client, request.session_id);
  ipc::Server::Final final;
  if (const auto refusal = check_fork(client, request, source)) {
    final.status = refusal->status;
    final.sentence = refusal->sentence;
    port.finish(client, request.id, final);
    return;
  }
  Session& copy = add_session(client);
  copy.last_used = ++uses;
  const std::uint64_t route_id = ready && source->fed() > 0 ? next_id() : 0;
  copy.copy(*source, route_id);
  users.at(copy.user()).tokens += copy.size();
  if (route_id != 0) {
    by_route_id.emplace(route_id, &copy);
    port.send_fork(source->fork_item(route_id, entry_index));
  }
  final.status = ipc::Status::kOkForked;
  final.session_id = copy.id();
  port.finish(client, request.id, final);
}

void Entry::Impl::gone(ipc::ClientId client) {
  std::vector<Session*> theirs;
  for (const auto& [id, session] : by_id) {
    if (session->client() == client) theirs.push_back(session.get());
  }
  for (Session* session : theirs) drop(*session);
  paused.erase(client);
}

void Entry::Impl::space(ipc::ClientId client) {
  const auto found = paused.find(client);
  if (found == paused.end()) return;
  std::vector<std::uint64_t> waiting = std::move(found->second);
  paused.erase(found);
  for (const std::uint64_t id : waiting) {
    Session* session = find(client, id);
    const bool still_paused = session != nullptr && session->answering &&
                              session->answering->phase == Answering::Phase::kPaused;
    if (!still_paused) continue;
    if (port.can_take(client)) {
      feed(*session);
    } else {
      paused[client].push_back(id);
    }
  }
}

}  // namespace ds4::agent
