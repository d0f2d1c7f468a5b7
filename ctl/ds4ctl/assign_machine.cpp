#include "ctl/ds4ctl/assign_machine.h"

#include <fmt/format.h>

#include <algorithm>

namespace ds4::ctl {
namespace {

double seconds_of(std::chrono::milliseconds time) {
  return std::chrono::duration<double>(time).count();
}

/// A second prepare of an epoch may be taken for a rival's; everything else changes nothing twice.
bool is_repeatable(const wire::Request& request) {
  return !std::holds_alternative<wire::PrepareRequest>(request.body);
}

bool polls_status(AssignPhase phase) {
  return phase == AssignPhase::kLoading || phase == AssignPhase::kJoining;
}

}  // namespace

AssignMachine::AssignMachine(AssignPlan plan, const AssignTimeouts& timeouts)
    : plan_(std::move(plan)), timeouts_(timeouts), work_(plan_.route.size()) {
  for (std::size_t i = 0; i < work_.size(); ++i) {
    work_[i].shown.name = plan_.route[i].node;
    work_[i].shown.layers = plan_.route[i].layers;
    work_[i].shown.doing = "waiting";
  }
}

std::string AssignMachine::label(std::size_t node) const {
  return fmt::format("node {} ({})", plan_.nodes[node].name, plan_.nodes[node].address);
}

std::vector<Outgoing> AssignMachine::take_outgoing() {
  return std::exchange(outgoing_, {});
}

std::vector<NodeProgress> AssignMachine::progress() const {
  std::vector<NodeProgress> out;
  for (const Work& work : work_) out.push_back(work.shown);
  return out;
}

void AssignMachine::start(TimePoint now) {
  enter(AssignPhase::kClearing, now);
}

void AssignMachine::enter(AssignPhase phase, TimePoint now) {
  phase_ = phase;
  phase_since_ = now;
  if (phase == AssignPhase::kDone) return;
  for (std::size_t i = 0; i < work_.size(); ++i) {
    work_[i].pending.reset();
    work_[i].step_done = false;
    work_[i].next_poll = now;
    work_[i].last_change = now;
    begin_step(i, now);
  }
  advance_if_all_done(now);
}

void AssignMachine::begin_step(std::size_t node, TimePoint now) {
  switch (phase_) {
    case AssignPhase::kClearing:
      if (plan_.stale[node] == 0) {
        work_[node].step_done = true;
      } else {
        ask(node, wire::AbortRequest{plan_.stale[node]}, now);
      }
      break;
    case AssignPhase::kPreparing:
      ask(node,
          wire::PrepareRequest{plan_.epoch, plan_.fingerprint, plan_.route, plan_.route[node].node},
          now);
      break;
    case AssignPhase::kCommitting:
      ask(node, wire::CommitRequest{plan_.epoch}, now);
      break;
    case AssignPhase::kAborting:
      ask(node, wire::AbortRequest{plan_.epoch}, now);
      break;
    case AssignPhase::kLoading:
    case AssignPhase::kJoining:
      ask(node, wire::StatusRequest{}, now);
      break;
    case AssignPhase::kDone:
      break;
  }
}

void AssignMachine::ask(std::size_t node, decltype(wire::Request::body) body, TimePoint now) {
  Pending& pending = work_[node].pending.emplace();
  pending.request.id = ++last_id_;
  pending.request.body = std::move(body);
  pending.first_sent = pending.last_sent = now;
  pending.repeatable = is_repeatable(pending.request);
  outgoing_.push_back({node, pending.request});
}

void AssignMachine::on_reply(std::size_t node, const Result<wire::Reply>& reply, TimePoint now) {
  if (done() || node >= work_.size() || !work_[node].pending) return;
  if (reply && reply->id != work_[node].pending->request.id) return;
  work_[node].pending.reset();
  work_[node].next_poll = now + timeouts_.poll;
  if (!reply) return on_refusal(node, reply.error(), now);
  if (reply->error) return on_refusal(node, *reply->error, now);
  if (polls_status(phase_)) {
    if (!reply->status) {
      return on_refusal(node, Error{ErrorCode::kCorrupt, "the reply holds no status"}, now);
    }
    return on_status(node, *reply->status, now);
  }
  if (phase_ == AssignPhase::kCommitting) work_[node].committed = true;
  work_[node].step_done = true;
  advance_if_all_done(now);
}

void AssignMachine::on_refusal(std::size_t node, const Error& error, TimePoint now) {
  if (phase_ == AssignPhase::kAborting) {  // it answered; there is nothing more to say to it
    work_[node].step_done = true;
    return advance_if_all_done(now);
  }
  std::string_view asked = "tell its status";
  if (phase_ == AssignPhase::kClearing) asked = "give up an earlier preparation";
  if (phase_ == AssignPhase::kPreparing) asked = "prepare";
  if (phase_ == AssignPhase::kCommitting) asked = "commit";
  give_up({error.code == ErrorCode::kCancelled ? ErrorCode::kUnavailable : error.code,
           fmt::format("{} refused to {}: {}", label(node), asked, error.message)},
          now);
}

void AssignMachine::on_status(std::size_t node, const wire::NodeStatus& status, TimePoint now) {
  Work& work = work_[node];
  if (status.load.bytes_done != work.shown.bytes_done) work.last_change = now;
  work.shown.bytes_done = status.load.bytes_done;
  work.shown.bytes_total = status.load.bytes_total;
  work.shown.seconds_left = status.load.seconds_left;
  if (phase_ == AssignPhase::kLoading) {
    look_at_load(node, status, now);
  } else {
    look_at_join(node, status, now);
  }
}

void AssignMachine::look_at_load(std::size_t node, const wire::NodeStatus& status, TimePoint now) {
  Work& work = work_[node];
  const auto& preparation = status.preparation;
  if (!preparation || preparation->epoch != plan_.epoch) {
    return give_up({ErrorCode::kMismatch,
                    fmt::format("{} no longer prepares epoch {}: its agent was restarted, or "
                                "another ds4ctl assigns at the same time",
                                label(node), plan_.epoch)},
                   now);
  }
  work.shown.doing = wire::to_string(preparation->phase);
  switch (preparation->phase) {
    case wire::PreparePhase::kFailed:
      return give_up(
          {ErrorCode::kUnavailable, fmt::format("{} could not load layers {}: {}", label(node),
                                                plan_.route[node].layers, preparation->detail)},
          now);
    case wire::PreparePhase::kPrepared:
      work.step_done = true;
      return advance_if_all_done(now);
    case wire::PreparePhase::kLoading:
      if (now - work.last_change > timeouts_.stall) {
        give_up({ErrorCode::kTimeout,
                 fmt::format("{} has loaded nothing for {:.0f} s, at {} of {} bytes: look at its "
                             "agent's log and disk",
                             label(node), seconds_of(timeouts_.stall), status.load.bytes_done,
                             status.load.bytes_total)},
                now);
      }
      return;
  }
}

void AssignMachine::look_at_join(std::size_t node, const wire::NodeStatus& status, TimePoint now) {
  Work& work = work_[node];
  work.shown.doing = wire::to_string(status.state);
  if (status.epoch != plan_.epoch) {
    return give_up({ErrorCode::kMismatch,
                    fmt::format("{} follows epoch {} instead of {}: another ds4ctl assigned or "
                                "released it meanwhile",
                                label(node), status.epoch, plan_.epoch)},
                   now);
  }
  if (status.state == wire::NodeState::kFailed || status.state == wire::NodeState::kStopping) {
    return give_up({ErrorCode::kUnavailable, fmt::format("{} is {}: {}", label(node),
                                                         to_string(status.state), status.detail)},
                   now);
  }
  work.step_done = status.state == wire::NodeState::kReady;
  if (!work.step_done && now - phase_since_ > timeouts_.join) {
    return give_up({ErrorCode::kTimeout,
                    fmt::format("no token has crossed the route within {:.0f} s; {} is {}{}{}",
                                seconds_of(timeouts_.join), label(node), to_string(status.state),
                                status.detail.empty() ? "" : ": ", status.detail)},
                   now);
  }
  advance_if_all_done(now);
}

void AssignMachine::advance_if_all_done(TimePoint now) {
  for (const Work& work : work_) {
    if (!work.step_done) return;
  }
  switch (phase_) {
    case AssignPhase::kClearing:
      return enter(AssignPhase::kPreparing, now);
    case AssignPhase::kPreparing:
      return enter(AssignPhase::kLoading, now);
    case AssignPhase::kLoading:
      return enter(AssignPhase::kCommitting, now);
    case AssignPhase::kCommitting:
      if (interrupted_) {
        outcome_ = fail(ErrorCode::kCancelled,
                        fmt::format("interrupted after every node had committed epoch {}; the "
                                    "route goes into service by itself, see `ds4ctl status`",
                                    plan_.epoch));
        return finish();
      }
      return enter(AssignPhase::kJoining, now);
    case AssignPhase::kJoining:
    case AssignPhase::kAborting:
    case AssignPhase::kDone:
      return finish();
  }
}

void AssignMachine::on_tick(TimePoint now) {
  for (std::size_t i = 0; i < work_.size() && !done(); ++i) {
    const AssignPhase before = phase_;
    tick_node(i, now);
    if (phase_ != before) return;
  }
}

void AssignMachine::tick_node(std::size_t node, TimePoint now) {
  Work& work = work_[node];
  if (!work.pending) {
    // Nodes that are through are watched on, so that one that restarts while others load is
    // noticed.
    if (polls_status(phase_) && now >= work.next_poll) ask(node, wire::StatusRequest{}, now);
    return;
  }
  const bool aborting = phase_ == AssignPhase::kAborting;
  const auto limit = aborting ? timeouts_.abort : timeouts_.answer;
  if (now - work.pending->first_sent > limit) {
    work.pending.reset();
    if (!aborting) {
      return give_up({ErrorCode::kTimeout,
                      fmt::format("{} has not answered for {:.0f} s: is ds4d still running there?",
                                  label(node), seconds_of(limit))},
                     now);
    }
    outcome_.error().message +=
        fmt::format("; {} could not be told to abort, see `ds4ctl status`", label(node));
    work.step_done = true;
    return advance_if_all_done(now);
  }
  if (work.pending->repeatable && now - work.pending->last_sent >= timeouts_.resend) {
    work.pending->last_sent = now;
    outgoing_.push_back({node, work.pending->request});
  }
}

void AssignMachine::on_interrupt(TimePoint now) {
  if (interrupted_ || done() || phase_ == AssignPhase::kAborting) return;
  interrupted_ = true;
  if (phase_ == AssignPhase::kCommitting) return;  // half a commit helps nobody; it takes a moment
  if (phase_ == AssignPhase::kJoining) {
    outcome_ = fail(ErrorCode::kCancelled,
                    fmt::format("interrupted; every node has committed epoch {} and the route goes "
                                "into service by itself, see `ds4ctl status`",
                                plan_.epoch));
    return finish();
  }
  give_up({ErrorCode::kCancelled, "interrupted"}, now);
}

void AssignMachine::give_up(Error why, TimePoint now) {
  std::string committed;
  for (const Work& work : work_) {
    if (!work.committed) continue;
    if (!committed.empty()) committed += ", ";
    committed += work.shown.name;
  }
  if (committed.empty()) {
    why.message += "; nothing was changed, what served before serves on";
  } else {
    why.message += fmt::format(
        "; epoch {} is already committed on {}: see `ds4ctl status`, and run "
        "the same assign again when the cause is gone",
        plan_.epoch, committed);
  }
  outcome_ = tl::unexpected<Error>(std::move(why));
  enter(AssignPhase::kAborting, now);
}

void AssignMachine::finish() {
  phase_ = AssignPhase::kDone;
}

}  // namespace ds4::ctl
