#pragma once
// What systemd is told: ready, status, patience, watchdog (sd_notify(3)).
//
// Ready is told once a canary token has crossed the route, and not when the process is up. One
// exception: a node without an assignment is ready as soon as it can be given one; otherwise
// systemd would kill it for being slow before anybody could assign layers to it.
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "agent/wire/control.h"

namespace ds4::agent {

struct Health {
  wire::NodeState state = wire::NodeState::kIdle;
  std::string detail;
  wire::LoadProgress load;
  /// Since when the engine thread has been inside one pass; zero when it is idle.
  std::chrono::steady_clock::time_point busy_since{};
};

/// Pure: what to tell, given what is known and what has been told.
class ServiceReporter {
 public:
  /// `watchdog`: systemd's WATCHDOG_USEC; zero when it watches nothing.
  ServiceReporter(std::chrono::microseconds watchdog, std::chrono::milliseconds stuck)
      : watchdog_(watchdog), stuck_(stuck) {}

  /// The text for sd_notify(); empty if there is nothing new.
  std::string next(const Health& health, std::chrono::steady_clock::time_point now);
  void set_stuck(std::chrono::milliseconds stuck) { stuck_ = stuck; }
  bool engine_stuck(const Health& health, std::chrono::steady_clock::time_point now) const;

 private:
  std::chrono::microseconds watchdog_;
  std::chrono::milliseconds stuck_;
  bool told_ready_ = false;
  bool told_stopping_ = false;
  std::string told_status_;
  std::optional<std::chrono::steady_clock::time_point> told_patience_;
  std::optional<std::chrono::steady_clock::time_point> told_watchdog_;
};

/// "loading layers 3:output: 42 %".
std::string describe(const Health& health);

/// WATCHDOG_USEC if it is meant for this process, else zero.
std::chrono::microseconds watchdog_interval();
/// Does nothing when no service manager listens.
void notify_service_manager(const std::string& text);

}  // namespace ds4::agent
