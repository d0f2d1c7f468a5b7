#include "agent/route/route_machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

namespace ds4::agent {
namespace {

/// Sessions of canaries have this bit; those of clients never do.
constexpr std::uint64_t kCanaryBit = 1ULL << 63;

}  // namespace

RouteMachine::RouteMachine(const RouteTiming& timing, std::uint64_t instance,
                           const Ledger& restored)
    : timing_(timing),
      instance_(instance),
      highest_epoch_(restored.highest_epoch),
      committed_(restored.assignment) {
  if (committed_) highest_epoch_ = std::max(highest_epoch_, committed_->epoch);
}

Actions RouteMachine::start(const Result<void>& fit, TimePoint now) {
  Actions actions;
  if (!committed_) return actions;
  const Assignment assignment = *committed_;
  if (!fit) {
    own_ = OwnSlice::kFailed;
    own_error_ = fmt::format("restore epoch {}: {}", assignment.epoch, fit.error().message);
    return actions;
  }
  join(assignment, now, actions);
  own_ = OwnSlice::kLoading;
  actions.emplace_back(StartLoad{assignment});
  return actions;
}

// ---- control ---------------------------------------------------------------------------------

Result<Actions> RouteMachine::prepare(const Assignment& assignment) {
  if (preparing_ && preparing_->assignment == assignment &&
      preparing_->phase != wire::PreparePhase::kFailed) {
    return Actions{};  // a repeated request
  }
  if (assignment.epoch <= highest_epoch_) {
    return fail(
        ErrorCode::kMismatch,
        fmt::format("epoch {} is not above {}, the highest that this node has seen: prepare "
                    "epoch {} or later",
                    assignment.epoch, highest_epoch_, highest_epoch_ + 1));
  }
  if (preparing_ && preparing_->phase != wire::PreparePhase::kFailed) {
    return fail(ErrorCode::kUnavailable,
                fmt::format("this node is preparing epoch {}: commit or abort that one first",
                            preparing_->assignment.epoch));
  }
  highest_epoch_ = assignment.epoch;
  preparing_ = Preparing{assignment, wire::PreparePhase::kLoading, {}};
  return Actions{StartLoad{assignment}};
}

Result<Actions> RouteMachine::commit(std::uint64_t epoch, TimePoint now) {
  if (committed_ && committed_->epoch == epoch) return Actions{};
  if (!preparing_ || preparing_->assignment.epoch != epoch) {
    return fail(ErrorCode::kMismatch,
                fmt::format("this node has not prepared epoch {}: prepare it first", epoch));
  }
  if (preparing_->phase == wire::PreparePhase::kLoading) {
    return fail(
        ErrorCode::kMismatch,
        fmt::format("this node is still loading the layers of epoch {}: commit when it says "
                    "prepared",
                    epoch));
  }
  if (preparing_->phase == wire::PreparePhase::kFailed) {
    return fail(ErrorCode::kMismatch,
                fmt::format("this node failed to prepare epoch {}: {}", epoch, preparing_->detail));
  }
  const Assignment assignment = preparing_->assignment;
  preparing_.reset();
  Actions actions;
  forget_committed(actions);
  join(assignment, now, actions);
  own_ = OwnSlice::kLoaded;
  actions.emplace_back(StartStage{epoch});
  ping_all(now, actions);
  settle(now, actions);
  return actions;
}

Actions RouteMachine::abort(std::uint64_t epoch) {
  if (!preparing_ || preparing_->assignment.epoch != epoch) return {};
  preparing_.reset();
  return {ForgetSlice{epoch}};
}

Actions RouteMachine::release() {
  Actions actions;
  if (preparing_) actions.emplace_back(ForgetSlice{preparing_->assignment.epoch});
  preparing_.reset();
  if (committed_) {
    forget_committed(actions);
    committed_.reset();
    actions.emplace_back(LeaveRoute{});
    ++serial_;
  }
  return actions;
}

void RouteMachine::forget_committed(Actions& actions) {
  if (!committed_) return;
  give_up_canary(actions);
  actions.emplace_back(ForgetSlice{committed_->epoch});
}

void RouteMachine::join(const Assignment& assignment, TimePoint now, Actions& actions) {
  committed_ = assignment;
  own_error_.clear();
  Peer waited_for;
  waited_for.last_heard = now;  // the timeout counts from here
  peers_.assign(assignment.route.size(), waited_for);
  Peer& own = peers_[assignment.index];
  own.heard = own.loaded = own.hears_all = true;  // own_ and all_alive() say the truth
  crossed_ = false;
  canary_note_.clear();
  next_canary_ = now;
  next_ping_ = now;
  ++serial_;
  actions.emplace_back(JoinRoute{assignment});
}

// ---- the loader ------------------------------------------------------------------------------

Actions RouteMachine::on_loaded(std::uint64_t epoch, TimePoint now) {
  Actions actions;
  if (committed_ && committed_->epoch == epoch && own_ == OwnSlice::kLoading) {
    own_ = OwnSlice::kLoaded;
    actions.emplace_back(StartStage{epoch});
    ping_all(now, actions);
    settle(now, actions);
  } else if (preparing_ && preparing_->assignment.epoch == epoch) {
    preparing_->phase = wire::PreparePhase::kPrepared;
  } else {
    actions.emplace_back(ForgetSlice{epoch});
  }
  return actions;
}

Actions RouteMachine::on_load_failed(std::uint64_t epoch, const Error& error) {
  if (committed_ && committed_->epoch == epoch && own_ == OwnSlice::kLoading) {
    own_ = OwnSlice::kFailed;
    own_error_ = error.message;
  } else if (preparing_ && preparing_->assignment.epoch == epoch) {
    preparing_->phase = wire::PreparePhase::kFailed;
    preparing_->detail = error.message;
  }
  return {};
}

Actions RouteMachine::on_slice_lost(std::uint64_t epoch, std::string_view why, TimePoint now) {
  Actions actions;
  if (!committed_ || committed_->epoch != epoch) return actions;
  own_ = OwnSlice::kFailed;
  own_error_ = why;
  actions.emplace_back(ForgetSlice{epoch});
  ping_all(now, actions);
  settle(now, actions);
  return actions;
}

// ---- the other stages ------------------------------------------------------------------------

Actions RouteMachine::on_ping(const wire::PingFrame& ping, TimePoint now) {
  Actions actions;
  if (!committed_ || ping.epoch != committed_->epoch || ping.stage >= peers_.size() ||
      is_own(ping.stage)) {
    return actions;
  }
  Peer& peer = peers_[ping.stage];
  if (peer.heard && peer.instance != ping.instance) {
    // Another process than before, even if it was never missed: what was under way in it is lost.
    crossed_ = false;
    give_up_canary(actions);
    actions.emplace_back(CloseSessionsOf{ping.stage});
  }
  peer.ready_processes = ping.route_ready ? std::optional(ping.processes) : std::nullopt;
  peer.heard = true;
  peer.instance = ping.instance;
  peer.last_heard = now;
  peer.loaded = ping.loaded;
  peer.hears_all = ping.hears_all;
  peer.forgotten = false;
  settle(now, actions);
  return actions;
}

Actions RouteMachine::on_unreachable(std::uint32_t stage, TimePoint now) {
  Actions actions;
  if (!committed_ || stage >= peers_.size() || is_own(stage)) return actions;
  peers_[stage].blocked_until = now + timing_.timeout;
  settle(now, actions);
  return actions;
}

Actions RouteMachine::on_canary_token(std::uint64_t session, TimePoint now) {
  Actions actions;
  if (!is_canary(session)) return actions;
  give_up_canary(actions);  // it has done its work: close its session
  canary_note_.clear();
  crossed_ = true;
  ping_all(now, actions);
  return actions;
}

Actions RouteMachine::on_canary_error(std::uint64_t session, std::string_view why, TimePoint now) {
  Actions actions;
  if (!is_canary(session)) return actions;
  give_up_canary(actions);
  canary_note_ = fmt::format("the canary token failed: {}", why);
  next_canary_ = now + timing_.canary_pause;
  return actions;
}

Actions RouteMachine::tick(TimePoint now) {
  Actions actions;
  if (!committed_ || peers_.empty()) return actions;
  settle(now, actions);
  if (now >= next_ping_) ping_all(now, actions);
  return actions;
}

Actions RouteMachine::stop() {
  Actions actions;
  stopping_ = true;
  if (committed_ && !peers_.empty()) {
    crossed_ = false;
    own_ = OwnSlice::kLoading;
    ping_all(next_ping_, actions);
  }
  return actions;
}

/// Everything that follows from what is known now.
void RouteMachine::settle(TimePoint now, Actions& actions) {
  watch_peers(now, actions);
  const bool whole = own_ == OwnSlice::kLoaded && all_alive() && all_loaded() && all_hear_all();
  if (is_first()) run_canary(whole, now, actions);
}

void RouteMachine::watch_peers(TimePoint now, Actions& actions) {
  for (std::uint32_t stage = 0; stage < peers_.size(); ++stage) {
    Peer& peer = peers_[stage];
    peer.blocked = now < peer.blocked_until;
    peer.alive = !peer.blocked && now - peer.last_heard <= timing_.timeout;
    if (!peer.forgotten && !is_own(stage) && now - peer.last_heard > timing_.forget) {
      peer.forgotten = true;
      actions.emplace_back(CloseSessionsOf{stage});
    }
  }
  peers_[committed_->index].alive = true;  // this node
}

void RouteMachine::run_canary(bool whole, TimePoint now, Actions& actions) {
  if (!whole) {
    give_up_canary(actions);
    if (crossed_) {
      crossed_ = false;
      ping_all(now, actions);  // the others stop trusting the route at once
    }
    return;
  }
  if (canary_ && now >= canary_->deadline) {
    canary_note_ = fmt::format("the canary token did not come back within {} ms",
                               timing_.canary_timeout.count());
    give_up_canary(actions);
    next_canary_ = now;
  }
  if (crossed_ || canary_ || now < next_canary_) return;
  // Not a number that an earlier process of this node may have left behind in a stage.
  const std::uint64_t session = kCanaryBit | (instance_ + canaries_++);
  canary_ = Canary{session, now + timing_.canary_timeout};
  actions.emplace_back(SendCanary{session});
}

void RouteMachine::give_up_canary(Actions& actions) {
  if (!canary_) return;
  actions.emplace_back(CloseCanary{canary_->session});
  canary_.reset();
}

void RouteMachine::ping_all(TimePoint now, Actions& actions) {
  next_ping_ = now + timing_.ping;
  if (committed_->route.size() == 1) return;
  wire::PingFrame frame;
  frame.epoch = committed_->epoch;
  frame.stage = committed_->index;
  frame.instance = instance_;
  frame.loaded = own_ == OwnSlice::kLoaded;
  frame.hears_all = all_alive();
  frame.route_ready = is_first() && crossed_;
  if (frame.route_ready) frame.processes = digest_of_route();
  actions.emplace_back(SendPing{frame});
}

// ---- what it comes to ------------------------------------------------------------------------

std::uint64_t RouteMachine::digest_of_route() const {
  std::vector<std::uint64_t> instances;
  for (const Peer& peer : peers_) instances.push_back(peer.instance);
  instances[committed_->index] = instance_;
  return wire::digest_processes(instances);
}

bool RouteMachine::all_alive() const {
  return std::all_of(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.alive; });
}

/// Of the others: that this node does is all_alive().
bool RouteMachine::all_hear_all() const {
  return std::all_of(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.hears_all; });
}

bool RouteMachine::all_loaded() const {
  return std::all_of(peers_.begin(), peers_.end(),
                     [](const Peer& peer) { return peer.heard && peer.loaded; });
}

wire::NodeState RouteMachine::state() const {
  using wire::NodeState;
  if (stopping_) return NodeState::kStopping;
  if (!committed_) {
    if (!preparing_ || preparing_->phase == wire::PreparePhase::kFailed) return NodeState::kIdle;
    return preparing_->phase == wire::PreparePhase::kPrepared ? NodeState::kPrepared
                                                              : NodeState::kLoading;
  }
  if (own_ == OwnSlice::kLoading) return NodeState::kLoading;
  if (own_ == OwnSlice::kFailed) return NodeState::kFailed;
  if (!all_alive()) return NodeState::kDegraded;
  const bool ready =
      is_first() ? crossed_ : all_loaded() && peers_[0].ready_processes == digest_of_route();
  return ready ? NodeState::kReady : NodeState::kJoining;
}

std::string RouteMachine::detail() const {
  using wire::NodeState;
  switch (state()) {
    case NodeState::kIdle:
      return "no layers assigned";
    case NodeState::kLoading:
      return fmt::format("loading layers {}", committed_ ? committed_->own().layers
                                                         : preparing_->assignment.own().layers);
    case NodeState::kPrepared:
      return fmt::format("epoch {} is prepared and waits for its commit",
                         preparing_->assignment.epoch);
    case NodeState::kJoining:
      return describe_joining();
    case NodeState::kDegraded:
      return describe_silent();
    case NodeState::kFailed:
      return own_error_;
    case NodeState::kReady:
    case NodeState::kStopping:
      return {};
  }
  return {};
}

std::string RouteMachine::describe_silent() const {
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    if (peers_[i].alive) continue;
    const auto& stage = committed_->route[i];
    if (peers_[i].blocked) {
      return fmt::format("node {} ({}) does not take frames", stage.node, stage.address);
    }
    return fmt::format("no word from node {} ({}) for {} ms", stage.node, stage.address,
                       timing_.timeout.count());
  }
  return {};
}

std::string RouteMachine::describe_joining() const {
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    if (peers_[i].heard && peers_[i].loaded) continue;
    const auto& stage = committed_->route[i];
    return peers_[i].heard ? fmt::format("node {} ({}) does not hold layers {} now", stage.node,
                                         stage.address, stage.layers)
                           : fmt::format("waiting for node {} ({})", stage.node, stage.address);
  }
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    if (peers_[i].hears_all) continue;
    return fmt::format("node {} ({}) has no word from some other node of the route",
                       committed_->route[i].node, committed_->route[i].address);
  }
  if (!is_first()) {
    return fmt::format("waiting for node {} to send a canary token through the route",
                       committed_->route[0].node);
  }
  return canary_note_.empty() ? "a canary token is crossing the route" : canary_note_;
}

std::optional<wire::Preparation> RouteMachine::preparation() const {
  if (!preparing_) return std::nullopt;
  return wire::Preparation{preparing_->assignment.epoch, preparing_->phase,
                           preparing_->assignment.own().layers, preparing_->detail};
}

}  // namespace ds4::agent
