#pragma once
// A port that remembers what the entry asked for, and a bench of entry and port for tests.
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include "agent/entry/entry.h"

namespace ds4::agent::test {

using RequestKey = std::pair<ipc::ClientId, std::uint64_t>;

class FakePort final : public EntryPort {
 public:
  struct Token {
    std::int32_t token;
    std::uint32_t position;
    float logprob;
  };

  void send_work(wire::WorkItem item) override {
    EXPECT_FALSE(closed.contains(item.session)) << "work for a closed session";
    work.push_back(std::move(item));
  }
  void send_close(std::uint64_t session) override {
    EXPECT_TRUE(closed.insert(session).second || maybe_lost.erase(session) > 0) << "closed twice";
  }
  void send_fork(const wire::ForkItem& fork) override { forks.push_back(fork); }
  /// Ten clients belong to one user, so that most tests have one user only.
  std::uint32_t user_of(ipc::ClientId client) override {
    return static_cast<std::uint32_t>(client / 10);
  }
  bool can_take(ipc::ClientId client) override { return !full.contains(client); }
  void token(ipc::ClientId client, std::uint64_t request, std::int32_t token,
             std::uint32_t position, float logprob) override {
    expect_open({client, request});
    tokens[{client, request}].push_back({token, position, logprob});
  }
  void progress(ipc::ClientId client, std::uint64_t request, std::uint32_t done,
                std::uint32_t total) override {
    expect_open({client, request});
    progresses[{client, request}].emplace_back(done, total);
  }
  void finish(ipc::ClientId client, std::uint64_t request,
              const ipc::Server::Final& final) override {
    expect_open({client, request});
    finals[{client, request}] = final;
  }

  void expect_open(const RequestKey& key) {
    EXPECT_FALSE(finals.contains(key)) << "something after the final of request " << key.second;
    EXPECT_FALSE(gone.contains(key.first)) << "something for a client that is gone";
  }

  std::deque<wire::WorkItem> work;
  std::vector<wire::ForkItem> forks;
  std::set<std::uint64_t> closed;
  std::set<std::uint64_t> maybe_lost;  // of them: sent before a link failed
  std::set<ipc::ClientId> full;
  std::set<ipc::ClientId> gone;
  std::map<RequestKey, std::vector<Token>> tokens;
  std::map<RequestKey, std::vector<std::pair<std::uint32_t, std::uint32_t>>> progresses;
  std::map<RequestKey, ipc::Server::Final> finals;
};

inline std::vector<std::int32_t> count_from(std::int32_t first, std::size_t tokens) {
  std::vector<std::int32_t> out(tokens);
  std::iota(out.begin(), out.end(), first);
  return out;
}

inline EntryConfig small_config() {
  EntryConfig config;
  config.context = 100;
  config.prefill_chunk = 10;
  config.tokens_in_flight = 1000;
  return config;
}

class Bench {
 public:
  explicit Bench(const EntryConfig& config = small_config()) : entry(config, port) { route(1); }

  void route(std::uint64_t serial, bool ready = true, std::string_view reason = "",
             ipc::RouteState state = ipc::RouteState::kReady) {
    if (!ready) port.maybe_lost = port.closed;
    entry.on_route({ready, state, serial, entry_index, reason});
  }

  static ipc::GenerateRequest request(std::uint64_t id, std::vector<std::int32_t> prompt,
                                      std::uint64_t session = 0) {
    ipc::GenerateRequest out;
    out.id = id;
    out.prompt = std::move(prompt);
    out.session_id = session;
    return out;
  }
  static ipc::GenerateRequest keeping(std::uint64_t id, std::vector<std::int32_t> prompt,
                                      std::uint64_t session = 0) {
    ipc::GenerateRequest out = request(id, std::move(prompt), session);
    out.keep_session = true;
    return out;
  }

  void ask(ipc::ClientId client, ipc::GenerateRequest one) {
    entry.on_request(client, std::move(one));
  }
  void cancel(ipc::ClientId client, std::uint64_t id) {
    entry.on_request(client, ipc::CancelRequest{id});
  }
  void close(ipc::ClientId client, std::uint64_t id, std::uint64_t session) {
    entry.on_request(client, ipc::CloseSessionRequest{id, session});
  }
  void leave(ipc::ClientId client) {
    port.gone.insert(client);
    entry.on_gone(client);
  }

  wire::WorkItem take() {
    if (port.work.empty()) {
      ADD_FAILURE() << "the entry sent no work";
      return {};
    }
    wire::WorkItem item = std::move(port.work.front());
    port.work.pop_front();
    return item;
  }

  /// The route has run `item`; where a token was asked for, it is `token`.
  void answer(const wire::WorkItem& item, std::int32_t token = 7) {
    wire::Outcome outcome;
    outcome.session = item.session;
    outcome.position = item.first_position + static_cast<std::uint32_t>(item.tokens.size());
    if (item.sample) {
      outcome.token = token;
      outcome.logprob = -0.5F;
    }
    entry.on_outcome(outcome);
  }
  void refuse(const wire::WorkItem& item, ErrorCode code, std::string message = "no") {
    entry.on_error({0, 1, {item.session}, code, std::move(message)});
  }

  /// Runs work, in order, until none waits; every token is `token`.
  void run(std::int32_t token = 7) {
    while (!port.work.empty()) answer(take(), token);
  }

  /// A kept session of `client` that has answered `prompt` with one token 7 (not yet fed).
  std::uint64_t kept_session(ipc::ClientId client, std::uint64_t id,
                             std::vector<std::int32_t> prompt) {
    ipc::GenerateRequest one = keeping(id, std::move(prompt));
    one.max_tokens = 1;
    ask(client, one);
    run(7);
    return final(client, id).session_id;
  }

  const ipc::Server::Final& final(ipc::ClientId client, std::uint64_t id) {
    static const ipc::Server::Final kNone{ipc::Status::kInternal, "TEST: no final", 0, 0, 0, 0};
    const auto found = port.finals.find({client, id});
    EXPECT_NE(found, port.finals.end()) << "request " << id << " has not ended";
    return found == port.finals.end() ? kNone : found->second;
  }
  bool ended(ipc::ClientId client, std::uint64_t id) const {
    return port.finals.contains({client, id});
  }
  std::vector<std::int32_t> tokens(ipc::ClientId client, std::uint64_t id) {
    std::vector<std::int32_t> out;
    for (const auto& one : port.tokens[{client, id}]) out.push_back(one.token);
    return out;
  }

  std::uint32_t entry_index = 0;
  FakePort port;
  Entry entry;
};

}  // namespace ds4::agent::test
