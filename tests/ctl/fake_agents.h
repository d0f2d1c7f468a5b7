#pragma once
// Agents that live in the test: they answer as the contract says, and fail as they are told to.
// Time is a number that the test moves.
#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "ctl/ds4ctl/assign_machine.h"
#include "tests/ctl/node_fixture.h"

namespace ds4::ctl {

struct FakeAgent {
  wire::NodeStatus status;
  bool down = false;                     // hears nothing, says nothing
  std::optional<std::string> down_upon;  // goes down when it hears this request
  std::optional<Error> refuse_prepare;
  std::optional<Error> refuse_commit;
  std::string fail_load;         // the load ends with this detail
  std::uint64_t load_steps = 2;  // looks at its status until it has prepared
  bool load_hangs = false;
  bool restarts_while_loading = false;
  bool never_ready = false;
  int lose_replies = 0;  // of commits
  std::optional<wire::NodeOffer> offer;
  std::optional<wire::ProbeFigures> probe;
  std::vector<std::string> heard;

  std::optional<wire::Reply> answer(const wire::Request& request) {
    const std::string name(wire::name_of(request));
    if (down_upon == name) down = true;
    if (down) return std::nullopt;
    heard.push_back(name);
    wire::Reply reply;
    reply.id = request.id;
    if (const auto* prepare = std::get_if<wire::PrepareRequest>(&request.body)) {
      reply.error = on_prepare(*prepare);
    } else if (const auto* commit = std::get_if<wire::CommitRequest>(&request.body)) {
      reply.error = on_commit(*commit);
      if (lose_replies-- > 0) return std::nullopt;
    } else if (std::holds_alternative<wire::AbortRequest>(request.body)) {
      status.preparation.reset();
    } else if (std::holds_alternative<wire::OfferRequest>(request.body)) {
      reply.offer = offer;
    } else if (std::holds_alternative<wire::ProbeRequest>(request.body)) {
      reply.probe = probe;
    } else {
      on_look();
    }
    reply.status = status;
    return reply;
  }

 private:
  std::optional<Error> on_prepare(const wire::PrepareRequest& prepare) {
    if (refuse_prepare) return refuse_prepare;
    if (status.preparation) return Error{ErrorCode::kUnavailable, "already preparing"};
    status.preparation = wire::Preparation{prepare.epoch, wire::PreparePhase::kLoading, "", ""};
    status.load = {0, load_steps};
    route = prepare.route;
    return std::nullopt;
  }
  std::optional<Error> on_commit(const wire::CommitRequest& commit) {
    if (refuse_commit) return refuse_commit;
    if (status.epoch == commit.epoch) return std::nullopt;
    if (!status.preparation || status.preparation->phase != wire::PreparePhase::kPrepared) {
      return Error{ErrorCode::kMismatch, "not prepared"};
    }
    status.preparation.reset();
    status.epoch = commit.epoch;
    status.state = wire::NodeState::kJoining;
    status.route = route;
    return std::nullopt;
  }
  void on_look() {
    if (status.preparation && status.preparation->phase == wire::PreparePhase::kLoading) {
      if (restarts_while_loading) status.preparation.reset();
      if (load_hangs || !status.preparation) return;
      if (++status.load.bytes_done < load_steps) return;
      status.preparation->phase =
          fail_load.empty() ? wire::PreparePhase::kPrepared : wire::PreparePhase::kFailed;
      status.preparation->detail = fail_load;
    } else if (status.state == wire::NodeState::kJoining && !never_ready) {
      status.state = wire::NodeState::kReady;
    }
  }

  std::vector<wire::StageSpec> route;
};

class FakeAgents {
 public:
  explicit FakeAgents(const std::vector<std::string>& names) {
    for (const std::string& name : names) agents.emplace_back().status = testing_nodes::idle(name);
  }

  /// Runs the machine until it is done or `steps` ticks of 100 ms have passed. `before_step` may
  /// interfere.
  void run(AssignMachine& machine, const std::function<void(int)>& before_step = {},
           int steps = 10'000) {
    if (!started_) machine.start(now);
    started_ = true;
    for (int step = 0; step < steps && !machine.done(); ++step) {
      if (before_step) before_step(step);
      for (const Outgoing& outgoing : machine.take_outgoing()) {
        if (auto reply = agents[outgoing.node].answer(outgoing.request)) {
          machine.on_reply(outgoing.node, std::move(*reply), now);
        }
      }
      now += std::chrono::milliseconds(100);
      machine.on_tick(now);
    }
  }

  std::size_t heard(std::size_t agent, std::string_view name) const {
    const auto& all = agents[agent].heard;
    return static_cast<std::size_t>(std::count(all.begin(), all.end(), name));
  }

  std::vector<FakeAgent> agents;
  TimePoint now{std::chrono::hours(1)};

 private:
  bool started_ = false;
};

}  // namespace ds4::ctl
