#pragma once
// What a new configuration changes in a running agent. Pure; the agent does what this says.
#include <string>
#include <vector>

#include "agent/config/config.h"

namespace ds4::agent {

/// Keys whose values differ, in the order of config_lines().
struct ConfigChange {
  std::vector<std::string> live;     // take effect at once: log.level, engine.stuck_ms
  std::vector<std::string> restart;  // wait for the next start
};

ConfigChange compare_configs(const Config& running, const Config& next);

/// `running` with the live keys of `next`.
Config with_live_keys(Config running, const Config& next);

}  // namespace ds4::agent
