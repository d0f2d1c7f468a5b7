#include "agent/entry/entry.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "agent/entry/entry_impl.h"

namespace ds4::agent {
namespace {

constexpr std::chrono::seconds kCloseMayBeLost{10};
constexpr std::size_t kMostClosesSent = 4096;

EntryConfig sane(EntryConfig config) {
  config.prefill_chunk = std::clamp(config.prefill_chunk, 1U, wire::kMaxFrameTokens);
  config.chunks_in_flight = std::max(config.chunks_in_flight, 1U);
  config.tokens_in_flight = std::max(config.tokens_in_flight, 1U);
  config.steps_in_flight = std::max(config.steps_in_flight, 1U);
  return config;
}

}  // namespace

Entry::Impl::Impl(const EntryConfig& settings, EntryPort& where)
    : config(sane(settings)), port(where), next(settings.session_base) {}

std::uint64_t Entry::Impl::next_id() {
  if (next == 0) next = 1;  // 0 means "none" to clients and to us
  return next++;
}

Session* Entry::Impl::find(ipc::ClientId client, std::uint64_t id) {
  const auto found = by_id.find(id);
  if (found == by_id.end() || found->second->client() != client) return nullptr;
  return found->second.get();
}

Session* Entry::Impl::find_by_route_id(std::uint64_t route_id) {
  const auto found = by_route_id.find(route_id);
  return found == by_route_id.end() ? nullptr : found->second;
}

// ---- feeding ---------------------------------------------------------------------------------

/// A session that ends with its request needs no room for more than that.
std::uint32_t Entry::Impl::context_for(const Session& session) const {
  const Answering& request = *session.answering;
  if (request.keep) return config.context;
  const std::uint64_t most =
      std::uint64_t{request.prompt_begin} + request.prompt_tokens + request.most_tokens;
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(most, config.context));
}

void Entry::Impl::feed(Session& session) {
  Answering& request = *session.answering;
  if (session.route_id() == 0) {
    const std::uint64_t route_id = next_id();
    session.open(route_id, context_for(session));
    by_route_id.emplace(route_id, &session);
  }
  request.phase = Answering::Phase::kFeeding;
  const bool decode_step = session.unfed() == 1 && request.generated > 0 && session.fed() > 0;
  if (!decode_step) return queue_prefill(session);
  request.phase = Answering::Phase::kStepping;
  steps.add(session.turn());
}

void Entry::Impl::send_step(Session& session) {
  Answering& request = *session.answering;
  request.phase = Answering::Phase::kAwaiting;
  request.step_in_flight = true;
  session.moved = now;
  ++steps_in_flight;
  port.send_work(session.next_item(1, entry_index, request.sampling));
}

void Entry::Impl::end_step(Session& session) {
  if (!session.answering || !std::exchange(session.answering->step_in_flight, false)) return;
  --steps_in_flight;
}

void Entry::Impl::pump() {
  while (!steps.empty() && (users_answering < 2 || steps_in_flight < config.steps_in_flight)) {
    send_step(*by_id.at(steps.take()));
  }
  while (!prefills.empty() && tokens_in_flight < config.tokens_in_flight) {
    Session& session = *by_id.at(prefills.take());
    Answering& request = *session.answering;
    wire::WorkItem item = session.next_item(config.prefill_chunk, entry_index, request.sampling);
    session.track(item);
    session.moved = now;
    tokens_in_flight += item.tokens.size();
    if (session.unfed() == 0) {
      request.phase = Answering::Phase::kAwaiting;
    } else {
      queue_prefill(session);
    }
    port.send_work(std::move(item));
  }
}

/// A session at its own bound is queued when a chunk of it is acknowledged: so that all stages have
/// work of one prompt, there is a chunk for each and one on its way.
void Entry::Impl::queue_prefill(Session& session) {
  if (session.chunks_in_flight() >= std::max(config.chunks_in_flight, stages + 1)) return;
  prefills.add(session.turn());
}

void Entry::Impl::acknowledge(Session& session, std::uint32_t position) {
  tokens_in_flight -= session.acknowledge(position);
  if (!session.answering || session.answering->phase != Answering::Phase::kFeeding) return;
  queue_prefill(session);
}

/// With the user's account of it.
void Entry::Impl::append(Session& session, std::span<const std::int32_t> tokens) {
  session.append(tokens);
  users.at(session.user()).tokens += tokens.size();
}

// ---- caches ----------------------------------------------------------------------------------

void Entry::Impl::send_close(std::uint64_t route_id) {
  if (!ready) {
    closes_owed.push_back(route_id);
    return;
  }
  port.send_close(route_id);
  closes_sent.push_back({route_id, now});
  while (closes_sent.size() > kMostClosesSent || now - closes_sent.front().when > kCloseMayBeLost) {
    closes_sent.pop_front();
  }
}

/// The link that failed may have been failing for a while, and what was sent in that time is lost.
/// A lost closing would leave caches at the stages behind until their memory is used up; to close
/// twice does nothing.
void Entry::Impl::owe_closes_sent() {
  for (const SentClose& sent : std::exchange(closes_sent, {})) {
    if (now - sent.when <= kCloseMayBeLost) closes_owed.push_back(sent.route_id);
  }
}

void Entry::Impl::forget_cache(Session& session) {
  prefills.remove(session.turn());
  steps.remove(session.turn());
  end_step(session);
  tokens_in_flight -= session.tokens_in_flight();
  by_route_id.erase(session.lose());
}

void Entry::Impl::give_up_cache(Session& session) {
  const std::uint64_t route_id = session.route_id();
  forget_cache(session);
  if (route_id != 0) send_close(route_id);
}

bool Entry::Impl::give_up_an_idle_cache() {
  Session* oldest = nullptr;
  for (const auto& [id, session] : by_id) {
    if (session->answering || session->route_id() == 0) continue;
    if (oldest == nullptr || session->last_used < oldest->last_used) oldest = session.get();
  }
  if (oldest == nullptr) return false;
  give_up_cache(*oldest);
  return true;
}

// ---- ending ----------------------------------------------------------------------------------

Answering Entry::Impl::end_request(Session& session) {
  prefills.remove(session.turn());
  steps.remove(session.turn());
  end_step(session);
  Answering request = std::move(*session.answering);
  session.answering.reset();
  requests.erase({request.client, request.id});
  if (--users.at(session.user()).answering == 0) --users_answering;
  return request;
}

void Entry::Impl::finish(Session& session, ipc::Status status, std::string sentence,
                         std::int32_t stop_token) {
  const Answering request = end_request(session);

  const bool failed = status >= ipc::Status::kInvalid;  // every number from there on is an error
  const bool lives_on = failed ? request.continues : request.keep;
  ipc::Server::Final final;
  final.status = status;
  final.sentence = std::move(sentence);
  final.session_id = lives_on ? session.id() : 0;
  final.prompt_tokens = request.prompt_tokens;
  final.generated_tokens = request.generated;
  final.stop_token = stop_token;
  if (!lives_on) {
    drop(session);
  } else if (failed) {
    give_up_cache(session);
    users.at(session.user()).tokens -= session.size() - request.prompt_begin;
    session.truncate(request.prompt_begin);
  }
  port.finish(request.client, request.id, final);
}

void Entry::Impl::drop(Session& session) {
  if (session.answering) end_request(session);
  give_up_cache(session);
  const auto user = users.find(session.user());
  user->second.tokens -= session.size();
  if (--user->second.sessions == 0) users.erase(user);
  by_id.erase(session.id());
}

// ---- the public face -------------------------------------------------------------------------

Entry::Entry(const EntryConfig& config, EntryPort& port)
    : impl_(std::make_unique<Impl>(config, port)) {}
Entry::~Entry() = default;

void Entry::on_request(ipc::ClientId client, ipc::Request request) {
  if (auto* generate = std::get_if<ipc::GenerateRequest>(&request)) {
    impl_->generate(client, std::move(*generate));
  } else if (const auto* cancel = std::get_if<ipc::CancelRequest>(&request)) {
    impl_->cancel(client, *cancel);
  } else if (const auto* close = std::get_if<ipc::CloseSessionRequest>(&request)) {
    impl_->close_session(client, *close);
  } else {
    impl_->fork_session(client, std::get<ipc::ForkSessionRequest>(request));
  }
  impl_->pump();
}

void Entry::on_gone(ipc::ClientId client) {
  impl_->gone(client);
  impl_->pump();
}

void Entry::on_space(ipc::ClientId client) {
  impl_->space(client);
  impl_->pump();
}

void Entry::on_outcome(const wire::Outcome& outcome) {
  impl_->outcome(outcome);
  impl_->pump();
}

void Entry::on_error(const wire::ErrorFrame& error) {
  impl_->error(error);
  impl_->pump();
}

void Entry::on_route(const RouteView& route) {
  impl_->route(route);
  impl_->pump();
}

void Entry::on_time(std::chrono::steady_clock::time_point now) {
  impl_->look_for_lost_work(now);
  impl_->pump();
}

void Entry::shut_down() {
  impl_->shut_down();
}

std::size_t Entry::sessions() const {
  return impl_->by_id.size();
}

std::size_t Entry::active_requests() const {
  return impl_->requests.size();
}

void Entry::set_draining(bool on) {
  impl_->draining = on;
}

bool Entry::draining() const {
  return impl_->draining;
}

}  // namespace ds4::agent
