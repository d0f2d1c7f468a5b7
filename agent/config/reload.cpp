#include "agent/config/reload.h"

namespace ds4::agent {
namespace {

std::string key_of(const std::string& line) {
  return line.substr(0, line.find(" = "));
}

/// Keys of the lines that differ; both lists name the same keys in the same order.
std::vector<std::string> differing_keys(const Config& a, const Config& b) {
  const std::vector<std::string> lines = config_lines(a);
  const std::vector<std::string> others = config_lines(b);
  std::vector<std::string> keys;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (lines[i] != others[i]) keys.push_back(key_of(lines[i]));
  }
  return keys;
}

}  // namespace

Config with_live_keys(Config running, const Config& next) {
  running.log_level = next.log_level;
  running.engine.stuck_ms = next.engine.stuck_ms;
  return running;
}

ConfigChange compare_configs(const Config& running, const Config& next) {
  const Config reached = with_live_keys(running, next);
  return {differing_keys(running, reached), differing_keys(reached, next)};
}

}  // namespace ds4::agent
