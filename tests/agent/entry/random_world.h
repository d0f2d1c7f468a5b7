#pragma once
// An entry above three stages with caches of bounded memory, and everything that may happen to them
// at random: stages that restart, routes that change or go, clients that cancel, stall and leave,
// frames that are lost. Every token a client ever sees must be the one that an undisturbed model
// gives, in order, once.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>

#include "agent/entry/entry.h"
#include "agent/stage/runner.h"
#include "tests/agent/entry/lossy_links.h"
#include "tests/agent/stage/fake_slice.h"

namespace ds4::agent::test {

using ds4::test::FakeControl;
using ds4::test::FakeOptions;
using ds4::test::FakeSlice;
using ds4::test::greedy_answer;

inline constexpr std::uint32_t kContext = 60;
inline constexpr std::uint32_t kStages = 3;

struct Node {
  std::unique_ptr<FakeSlice> slice;
  std::unique_ptr<Runner> runner;
};

/// The stages, one batch at a time. What crosses between them is handed over at once, unless there
/// are links: then it arrives when it does.
class Route {
 public:
  explicit Route(std::uint32_t seed, std::uint32_t entry = 0,
                 const std::optional<Faults>& faults = {})
      : random_(seed), entry_(entry) {
    if (faults) links.emplace(*faults, seed);
    restart_all();
  }

  void restart(std::uint32_t i) {
    static const std::uint32_t kFirst[] = {0, 2, 3};
    static const std::uint32_t kLast[] = {1, 2, 5};
    const FakeOptions options{kFirst[i], kLast[i], i + 1 == kStages,
                              /*max_rows=*/static_cast<std::uint32_t>(3 + random_() % 20),
                              /*kv_budget_positions=*/kContext * 7};
    nodes_[i].slice = std::make_unique<FakeSlice>(options, control);
    nodes_[i].runner =
        std::make_unique<Runner>(*nodes_[i].slice, StagePlace{epoch_, i, kStages}, timing());
  }
  void restart_all() {
    ++epoch_;
    nodes_.resize(kStages);
    for (std::uint32_t i = 0; i < kStages; ++i) restart(i);
  }

  void send(wire::WorkItem item) {
    send_on(entry_, {0, wire::WorkFrame{epoch_, {std::move(item)}, {}}});
  }
  void send_close(std::uint64_t session) {
    send_on(entry_, {0, wire::CloseFrame{epoch_, {session}}});
  }
  void send_fork(const wire::ForkItem& fork) {
    send_on(entry_, {0, wire::ForkFrame{epoch_, {fork}}});
  }

  /// False: nothing waits anywhere.
  bool step() {
    if (links && (random_() % 2 == 0 || all_idle())) {
      auto frame = links->take();
      if (frame) deliver(*std::move(frame));
      if (frame || !links->empty()) return true;
    }
    std::vector<std::uint32_t> busy;
    for (std::uint32_t i = 0; i < kStages; ++i) {
      if (!idle(i)) busy.push_back(i);
    }
    if (busy.empty()) return links && !links->empty();
    std::vector<Outgoing> out;
    const std::uint32_t stage = busy[random_() % busy.size()];
    nodes_[stage].runner->step(out, now_ += std::chrono::seconds(1));
    for (Outgoing& sent : out) send_on(stage, std::move(sent));
    return true;
  }

  bool idle(std::uint32_t i) const { return nodes_[i].runner->idle(); }
  bool all_idle() const {
    return std::all_of(nodes_.begin(), nodes_.end(),
                       [](const Node& node) { return node.runner->idle(); });
  }
  std::uint64_t waiting_rows() const {
    std::uint64_t sum = 0;
    for (const Node& node : nodes_) sum += node.runner->waiting_rows();
    return sum;
  }

  void pass(std::chrono::seconds time) { now_ += time; }

  std::uint64_t sessions() const {
    std::uint64_t sum = 0;
    for (const Node& node : nodes_) sum += node.runner->sessions();
    return sum;
  }

  std::shared_ptr<FakeControl> control = std::make_shared<FakeControl>();
  std::vector<wire::Outcome> outcomes;
  std::vector<wire::ErrorFrame> errors;
  std::optional<LossyLinks> links;

 private:
  /// Batches take times that mean nothing, so their sizes are as good as random.
  StageOptions timing() {
    StageOptions options;
    options.decode_wait = std::chrono::milliseconds(1);
    options.clock = [this] { return clock_ += std::chrono::microseconds(random_() % 200); };
    return options;
  }

  void send_on(std::uint32_t from, Outgoing sent) {
    if (links && sent.to != from) {
      links->send(from, std::move(sent));
    } else {
      deliver(std::move(sent));
    }
  }

  /// As agents do: what is of another epoch is nobody's.
  void deliver(Outgoing sent) {
    const std::uint64_t epoch = std::visit(
        [](const auto& frame) -> std::uint64_t {
          if constexpr (std::is_same_v<std::decay_t<decltype(frame)>, Unsent>)
            return 0;
          else
            return frame.epoch;
        },
        sent.frame);
    if (epoch != epoch_) return;
    std::vector<Outgoing> refused;
    if (auto* work = std::get_if<wire::WorkFrame>(&sent.frame)) {
      nodes_[sent.to].runner->accept(std::move(*work), refused);
    } else if (const auto* close = std::get_if<wire::CloseFrame>(&sent.frame)) {
      nodes_[sent.to].runner->accept(*close);
    } else if (const auto* fork = std::get_if<wire::ForkFrame>(&sent.frame)) {
      nodes_[sent.to].runner->accept(*fork);
    } else if (const auto* tokens = std::get_if<wire::TokenFrame>(&sent.frame)) {
      outcomes.insert(outcomes.end(), tokens->outcomes.begin(), tokens->outcomes.end());
    } else {
      errors.push_back(std::get<wire::ErrorFrame>(sent.frame));
    }
    EXPECT_TRUE(refused.empty());
  }

  Runner::TimePoint clock_{};
  std::mt19937 random_;
  const std::uint32_t entry_;
  std::uint64_t epoch_ = 0;
  Runner::TimePoint now_;
  std::vector<Node> nodes_;
};

struct Asked {
  std::uint64_t session = 0;         // the one it continues
  std::vector<std::int32_t> before;  // of that session
  std::vector<std::int32_t> text;    // before, the prompt, and every token delivered
  std::size_t delivered = 0;
  std::size_t most = 0;
  bool keep = false;
  std::uint64_t forks = 0;  // the session of which a copy is asked for
};

class World final : public EntryPort {
 public:
  explicit World(std::uint32_t seed, std::uint32_t entry_index = 0,
                 const std::optional<Faults>& faults = {})
      : random_(seed),
        may_lose_frames(seed % 2 == 1),
        entry_at(entry_index),
        route(seed, entry_index, faults),
        entry(config(), *this) {
    tell_route(true);
  }

  static EntryConfig config() {
    EntryConfig out;
    out.context = kContext;
    out.prefill_chunk = 9;
    out.tokens_in_flight = 30;
    out.max_sessions = 12;
    out.steps_in_flight = 2;
    out.lost_after = std::chrono::seconds(10);
    return out;
  }

  // ---- EntryPort ----
  void send_work(wire::WorkItem item) override { route.send(std::move(item)); }
  void send_close(std::uint64_t session) override { route.send_close(session); }
  void send_fork(const wire::ForkItem& fork) override { route.send_fork(fork); }
  std::uint32_t user_of(ipc::ClientId client) override {
    return static_cast<std::uint32_t>(client % 2);
  }
  bool can_take(ipc::ClientId client) override { return !stalled.contains(client); }
  void progress(ipc::ClientId, std::uint64_t, std::uint32_t, std::uint32_t) override {}

  void token(ipc::ClientId client, std::uint64_t id, std::int32_t token, std::uint32_t position,
             float) override {
    Asked& asked = open.at({client, id});
    ASSERT_EQ(position, asked.text.size());
    ASSERT_EQ(token, greedy_answer(asked.text, 1)[0]);
    asked.text.push_back(token);
    ++asked.delivered;
    ++tokens;
  }

  void finish(ipc::ClientId client, std::uint64_t id, const ipc::Server::Final& final) override {
    const auto found = open.find({client, id});
    ASSERT_NE(found, open.end()) << "a second final, or one for nobody";
    Asked asked = std::move(found->second);
    open.erase(found);
    ++statuses[final.status];
    ASSERT_EQ(final.generated_tokens, asked.delivered);
    if (final.status == ipc::Status::kOkLength) {
      const bool whole = asked.delivered == asked.most || asked.text.size() == kContext;
      ASSERT_TRUE(whole) << asked.delivered << " of " << asked.most;
    }
    if (final.status == ipc::Status::kOkStop) {
      ASSERT_EQ(final.stop_token, greedy_answer(asked.text, 1)[0]);
      asked.text.push_back(final.stop_token);  // it stays in the session
    }
    if (asked.forks != 0) {
      if (final.status == ipc::Status::kOkForked) kept[{client, final.session_id}] = asked.before;
      return;
    }
    if (asked.session != 0) kept.erase({client, asked.session});
    if (final.session_id == 0) return;
    const bool ended_well = final.status <= ipc::Status::kCancelled;
    kept[{client, final.session_id}] = ended_well ? asked.text : asked.before;
  }

  // ---- what clients do ----
  void ask() {
    const ipc::ClientId client = 1 + random_() % 4;
    ipc::GenerateRequest request;
    request.id = ++last_id;
    Asked asked;
    for (const auto& [key, text] : kept) {
      if (key.first != client || busy_session(key) || random_() % 2 == 0) continue;
      asked.session = request.session_id = key.second;
      asked.before = text;
      break;
    }
    const std::size_t least = request.session_id == 0 ? 1 : 0;
    request.prompt.resize(least + random_() % 25);
    for (auto& token : request.prompt) token = static_cast<std::int32_t>(random_() % 50);
    request.max_tokens = 1 + random_() % 12;
    request.keep_session = random_() % 2 == 0;
    for (std::size_t i = random_() % 3; i > 0; --i) {
      request.stop.push_back(static_cast<std::int32_t>(random_() % 50));
    }
    asked.text = asked.before;
    asked.text.insert(asked.text.end(), request.prompt.begin(), request.prompt.end());
    asked.most = request.max_tokens;
    asked.keep = request.keep_session;
    open[{client, request.id}] = asked;
    entry.on_request(client, request);
  }

  bool busy_session(const std::pair<ipc::ClientId, std::uint64_t>& key) const {
    for (const auto& [request, asked] : open) {
      if (request.first == key.first && asked.session == key.second) return true;
    }
    return false;
  }

  void cancel() {
    if (open.empty()) return;
    const auto [client, id] = std::next(open.begin(), random_() % open.size())->first;
    entry.on_request(client, ipc::CancelRequest{id});
  }

  void close() {
    if (kept.empty()) return;
    const auto key = std::next(kept.begin(), random_() % kept.size())->first;
    if (busy_session(key)) return;
    open[{key.first, ++last_id}] = {};
    kept.erase(key);
    entry.on_request(key.first, ipc::CloseSessionRequest{last_id, key.second});
  }

  /// Often of a session that has work on its way no more than a moment ago.
  void fork() {
    if (kept.empty()) return;
    const auto& [key, text] = *std::next(kept.begin(), random_() % kept.size());
    Asked asked;
    asked.forks = key.second;
    asked.before = text;
    const auto request = std::pair(key.first, ++last_id);
    const std::uint64_t session = key.second;
    open[request] = std::move(asked);
    entry.on_request(request.first, ipc::ForkSessionRequest{request.second, session});
  }

  void leave(ipc::ClientId client) {
    entry.on_gone(client);
    std::erase_if(open, [&](const auto& one) { return one.first.first == client; });
    std::erase_if(kept, [&](const auto& one) { return one.first.first == client; });
  }

  void stall() {
    const ipc::ClientId client = 1 + random_() % 4;
    for (const ipc::ClientId other : std::exchange(stalled, {client})) {
      if (other != client) entry.on_space(other);
    }
  }

  // ---- what happens to the route ----
  void tell_route(bool ready) {
    entry.on_route({ready, ready ? ipc::RouteState::kReady : ipc::RouteState::kDegraded, serial,
                    entry_at, "a test pulled the plug"});
  }

  void replace_route() {
    route.restart_all();
    route.outcomes.clear();
    route.errors.clear();
    ++serial;
    tell_route(true);
  }

  /// A stage that had nothing to do comes back without its caches and nobody notices; one that had
  /// is missed.
  void lose_a_stage() {
    if (random_() % 6 != 0) return;
    const std::uint32_t stage = random_() % kStages;
    const bool missed = !route.idle(stage);
    if (missed && !may_lose_frames) return;
    route.restart(stage);
    if (!missed) return;
    tell_route(false);
    tell_route(true);
  }

  void act() {
    const std::uint32_t what = random_() % 24;
    if (route_stays && what >= 9 && what <= 11) return;
    switch (what) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4:
        return ask();
      case 5:
        return cancel();
      case 6:
        return stall();
      case 7:
        return close();
      case 8:
        if (random_() % 4 == 0) leave(1 + random_() % 4);
        return fork();
      case 9:
        return lose_a_stage();
      case 10:
        if (random_() % 12 == 0) replace_route();
        return;
      case 11:
        if (random_() % 12 == 0) {
          tell_route(false);
          tell_route(true);
        }
        return;
      default:
        for (int i = 0; i < 10; ++i) carry();
    }
  }

  bool carry() {
    const bool moved = route.step();
    for (const auto& outcome : std::exchange(route.outcomes, {})) entry.on_outcome(outcome);
    for (const auto& error : std::exchange(route.errors, {})) entry.on_error(error);
    // Only what links lose is ever lost.
    if (route.links) entry.on_time(time += std::chrono::milliseconds(10));
    return moved;
  }

  void come_to_rest() {
    for (const ipc::ClientId client : std::exchange(stalled, {})) entry.on_space(client);
    while (carry()) {
    }
    if (!route.links) return;
    // What was lost is asked for again, four times at the most.
    for (int i = 0; i < 1000 && !open.empty(); ++i) {
      entry.on_time(time += std::chrono::seconds(1));
      while (carry()) {
      }
    }
  }

  std::mt19937 random_;
  const bool may_lose_frames;
  bool route_stays = false;  // nothing happens to it or to its stages
  const std::uint32_t entry_at;
  Route route;
  std::set<ipc::ClientId> stalled;
  std::map<std::pair<ipc::ClientId, std::uint64_t>, Asked> open;
  std::map<std::pair<ipc::ClientId, std::uint64_t>, std::vector<std::int32_t>> kept;
  std::map<ipc::Status, int> statuses;
  std::uint64_t last_id = 0;
  std::uint64_t serial = 1;
  std::chrono::steady_clock::time_point time{std::chrono::hours(1)};
  std::size_t tokens = 0;
  Entry entry;
};

}  // namespace ds4::agent::test
