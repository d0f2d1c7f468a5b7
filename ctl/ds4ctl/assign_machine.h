#pragma once
// The coordinator of one assignment, as a state machine without sockets or clocks.
//
// Two-phase: every node prepares (loads its layers beside whatever serves now), and only when all
// have prepared does anybody commit. Until the first commit, any failure, silence or Ctrl-C ends in
// an abort sent to everyone, and the former route serves on. After it there is no way back, only
// on: a node that missed its commit is named, and running the same command again completes the
// change.
//
//   clearing -> preparing -> loading -> committing -> joining -> done
//       \___________\__________\____________\___________\-> aborting -> done
//
// The owner feeds replies, ticks and the interrupt, and sends what take_outgoing() returns.
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "agent/wire/control.h"
#include "ctl/ds4ctl/assign_plan.h"
#include "engine/base/result.h"

namespace ds4::ctl {

using TimePoint = std::chrono::steady_clock::time_point;

struct AssignTimeouts {
  std::chrono::milliseconds answer{10'000};  // a node's silence is its failure
  std::chrono::milliseconds resend{2'500};   // requests that may be repeated are repeated
  std::chrono::milliseconds stall{180'000};  // a load without any progress
  std::chrono::milliseconds join{60'000};    // from the last commit to the canary's return
  std::chrono::milliseconds abort{3'000};    // for saying goodbye to nodes that may be gone
  std::chrono::milliseconds poll{250};       // between two looks at a node
};

enum class AssignPhase { kClearing, kPreparing, kLoading, kCommitting, kJoining, kAborting, kDone };

struct Outgoing {
  std::size_t node = 0;  // index into the plan
  wire::Request request;
};

/// For the progress display.
struct NodeProgress {
  std::string name;
  std::string layers;
  std::string doing;  // "loading", "prepared", "ready"
  std::uint64_t bytes_done = 0;
  std::uint64_t bytes_total = 0;
  std::uint64_t seconds_left = 0;  // 0: not known
  bool operator==(const NodeProgress&) const = default;
};

class AssignMachine {
 public:
  explicit AssignMachine(AssignPlan plan, const AssignTimeouts& timeouts = {});

  void start(TimePoint now);
  /// Replies to anything but the node's latest request are dropped. An error stands for a reply
  /// that could not be understood.
  void on_reply(std::size_t node, const Result<wire::Reply>& reply, TimePoint now);
  void on_tick(TimePoint now);
  void on_interrupt(TimePoint now);
  std::vector<Outgoing> take_outgoing();

  AssignPhase phase() const { return phase_; }
  bool done() const { return phase_ == AssignPhase::kDone; }
  /// Once done: success, kCancelled for an interrupt, or why not.
  const Result<void>& outcome() const { return outcome_; }
  const AssignPlan& plan() const { return plan_; }
  std::vector<NodeProgress> progress() const;

 private:
  struct Pending {
    wire::Request request;
    TimePoint first_sent;
    TimePoint last_sent;
    bool repeatable = true;
  };
  struct Work {
    std::optional<Pending> pending;
    bool step_done = false;  // of the present phase
    bool committed = false;
    TimePoint next_poll;
    TimePoint last_change;  // of the load's bytes
    NodeProgress shown;
  };

  void enter(AssignPhase phase, TimePoint now);
  void begin_step(std::size_t node, TimePoint now);
  void ask(std::size_t node, decltype(wire::Request::body) body, TimePoint now);
  void advance_if_all_done(TimePoint now);
  void on_refusal(std::size_t node, const Error& error, TimePoint now);
  void on_status(std::size_t node, const wire::NodeStatus& status, TimePoint now);
  void look_at_load(std::size_t node, const wire::NodeStatus& status, TimePoint now);
  void look_at_join(std::size_t node, const wire::NodeStatus& status, TimePoint now);
  void tick_node(std::size_t node, TimePoint now);
  void give_up(Error why, TimePoint now);
  void finish();
  std::string label(std::size_t node) const;

  AssignPlan plan_;
  AssignTimeouts timeouts_;
  AssignPhase phase_ = AssignPhase::kClearing;
  TimePoint phase_since_;
  std::vector<Work> work_;
  std::vector<Outgoing> outgoing_;
  std::uint64_t last_id_ = 0;
  bool interrupted_ = false;
  Result<void> outcome_;
};

}  // namespace ds4::ctl
