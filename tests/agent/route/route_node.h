#pragma once
// One node of a route, as the tests of the route machine drive it.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "agent/route/route_machine.h"

namespace ds4::agent {

using namespace std::chrono_literals;
using wire::NodeState;
using wire::PreparePhase;

inline constexpr std::uint64_t kInstance = 1000;

template <typename T>
std::vector<T> all(const Actions& actions) {
  std::vector<T> out;
  for (const Action& action : actions) {
    if (const auto* wanted = std::get_if<T>(&action)) out.push_back(*wanted);
  }
  return out;
}

template <typename T>
bool has(const Actions& actions) {
  return !all<T>(actions).empty();
}

/// A route of three nodes, a, b and c, as seen by one of them.
class Node {
 public:
  explicit Node(std::uint32_t index, Ledger ledger = {}, std::size_t stages = 3)
      : machine(RouteTiming{100ms, 2000ms, 60s, 30s, 1s}, kInstance, ledger),
        index_(index),
        stages_(stages) {
    instances[index] = kInstance;
  }

  Assignment assignment(std::uint64_t epoch) const {
    const std::vector<wire::StageSpec> three = {{"a", "tcp://10.0.0.1:1", "0:1"},
                                                {"b", "tcp://10.0.0.2:1", "2:3"},
                                                {"c", "tcp://10.0.0.3:1", "4:output"}};
    if (stages_ == 1) return {epoch, "f00d", {{"a", "tcp://10.0.0.1:1", "0:output"}}, 0};
    return {epoch, "f00d", three, index_};
  }

  /// Prepared, loaded, committed.
  Actions serve(std::uint64_t epoch) {
    EXPECT_TRUE(machine.prepare(assignment(epoch)));
    machine.on_loaded(epoch, now);
    auto actions = machine.commit(epoch, now);
    EXPECT_TRUE(actions);
    return actions ? *actions : Actions{};
  }

  struct Heard {
    bool loaded = true;
    bool hears_all = true;
    bool ready = false;  // of the processes that this node knows, unless `processes`
    std::uint64_t instance = 7;
    std::uint64_t epoch = 0;  // 0: the committed one
    std::uint64_t processes = 0;
  };
  Actions hear(std::uint32_t stage) { return hear(stage, {}); }
  Actions hear(std::uint32_t stage, const Heard& heard) {
    wire::PingFrame ping;
    ping.epoch = heard.epoch != 0 ? heard.epoch : machine.committed()->epoch;
    ping.stage = stage;
    ping.instance = heard.instance;
    ping.loaded = heard.loaded;
    ping.hears_all = heard.hears_all;
    ping.route_ready = heard.ready;
    if (stage < instances.size()) instances[stage] = heard.instance;
    ping.processes = heard.processes != 0 ? heard.processes : wire::digest_processes(instances);
    return machine.on_ping(ping, now);
  }

  /// Time passes while all the others go on pinging.
  void pass_with_pings(std::chrono::milliseconds time, bool ready = false) {
    for (auto spent = 0ms; spent < time; spent += 100ms) {
      now += 100ms;
      for (std::uint32_t stage = 0; stage < 3; ++stage) {
        if (stage != index_) hear(stage, {.ready = ready && stage == 0});
      }
      machine.tick(now);
    }
  }

  RouteMachine machine;
  TimePoint now{1'000'000ms};
  std::vector<std::uint64_t> instances = {7, 7, 7};

 private:
  std::uint32_t index_;
  std::size_t stages_;
};

/// The first stage, its route ready by a canary.
inline Node ready_first() {
  Node node(0);
  node.serve(1);
  node.hear(1);
  const Actions actions = node.hear(2);
  EXPECT_TRUE(has<SendCanary>(actions));
  node.machine.on_canary_token(all<SendCanary>(actions)[0].session, node.now);
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
  return node;
}

inline Node ready_second() {
  Node node(1);
  node.serve(1);
  node.hear(2);
  node.hear(0, {.ready = true});
  EXPECT_EQ(node.machine.state(), NodeState::kReady);
  return node;
}

}  // namespace ds4::agent
