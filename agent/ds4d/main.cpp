// ds4d. Exit codes: 0 stopped in order; 1 could not start, or failed (one sentence on stderr or in
// the journal says why); 2 the command line or the configuration is wrong: restarting will not
// help.
#include <cstdio>

#include "agent/ds4d/agent.h"
#include "agent/ds4d/options.h"
#include "agent/log/log.h"

int main(int argc, char** argv) {
  using namespace ds4::agent;
  const CommandLine line = parse_command_line(argc, argv);
  if (!line.options) return line.exit_code;
  const auto config = load_config(*line.options);
  if (!config) {
    log(LogLevel::kError, "{}", config.error().message);
    return 2;
  }
  if (line.options->check_config) {
    for (const std::string& key : config_lines(*config)) std::puts(key.c_str());
    std::puts("the configuration is good");
    return 0;
  }
  set_log_level(config->log_level);
  auto signals = Signals::block();
  if (!signals) {
    log(LogLevel::kError, "{}", signals.error().message);
    return 1;
  }
  const auto agent =
      Agent::create(*config, std::move(*signals), [&line] { return load_config(*line.options); });
  if (!agent) {
    log(LogLevel::kError, "{}", agent.error().message);
    return 1;
  }
  (*agent)->run();
  return 0;
}
