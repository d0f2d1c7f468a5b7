#include "agent/ds4d/service.h"

#include <fmt/format.h>
#include <systemd/sd-daemon.h>

namespace ds4::agent {
namespace {

using namespace std::chrono_literals;
constexpr auto kPatience = 30s;  // what we ask for while layers load or nodes are waited for
constexpr auto kPatienceEvery = 10s;

/// Still on the way to ready, and healthy: a restart would only begin again.
bool is_starting(wire::NodeState state) {
  using wire::NodeState;
  return state == NodeState::kLoading || state == NodeState::kPrepared ||
         state == NodeState::kJoining || state == NodeState::kDegraded;
}

bool is_serviceable(wire::NodeState state) {
  return state == wire::NodeState::kReady || state == wire::NodeState::kIdle;
}

}  // namespace

std::string describe(const Health& health) {
  using wire::NodeState;
  if (health.state == NodeState::kIdle) return "idle: no layers assigned; use ds4ctl assign";
  if (health.state == NodeState::kLoading && health.load.bytes_total > 0) {
    return fmt::format(
        "{}: {} %{}", health.detail,
        static_cast<std::uint64_t>(100.0 * static_cast<double>(health.load.bytes_done) /
                                   static_cast<double>(health.load.bytes_total)),
        health.load.seconds_left > 0 ? fmt::format(", {} s left", health.load.seconds_left) : "");
  }
  if (health.detail.empty()) return std::string(to_string(health.state));
  return fmt::format("{}: {}", to_string(health.state), health.detail);
}

bool ServiceReporter::engine_stuck(const Health& health,
                                   std::chrono::steady_clock::time_point now) const {
  return health.busy_since != std::chrono::steady_clock::time_point{} &&
         now - health.busy_since > stuck_;
}

std::string ServiceReporter::next(const Health& health, std::chrono::steady_clock::time_point now) {
  std::string text;
  const auto tell = [&](const std::string& line) { text += line + "\n"; };
  if (health.state == wire::NodeState::kStopping && !told_stopping_) {
    told_stopping_ = true;
    tell("STOPPING=1");
  }
  if (!told_ready_ && is_serviceable(health.state)) {
    told_ready_ = true;
    tell("READY=1");
  }
  if (std::string status = describe(health); status != told_status_) {
    tell("STATUS=" + status);
    told_status_ = std::move(status);
  }
  if (!told_ready_ && is_starting(health.state) &&
      (!told_patience_ || now - *told_patience_ >= kPatienceEvery)) {
    told_patience_ = now;
    tell(fmt::format("EXTEND_TIMEOUT_USEC={}", std::chrono::microseconds(kPatience).count()));
  }
  // This line is reached only by a living main loop; the engine thread is asked separately.
  if (watchdog_.count() > 0 && !engine_stuck(health, now) &&
      (!told_watchdog_ || now - *told_watchdog_ >= watchdog_ / 3)) {
    told_watchdog_ = now;
    tell("WATCHDOG=1");
  }
  return text;
}

std::chrono::microseconds watchdog_interval() {
  std::uint64_t usec = 0;
  return std::chrono::microseconds(sd_watchdog_enabled(0, &usec) > 0 ? usec : 0);
}

void notify_service_manager(const std::string& text) {
  if (!text.empty()) sd_notify(0, text.c_str());
}

}  // namespace ds4::agent
