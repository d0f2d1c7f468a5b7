#pragma once
// ds4d's command line, and how it, the configuration file and the machine's facts become one
// Config.
#include <optional>
#include <string>

#include "agent/config/config.h"
#include "engine/base/result.h"

namespace ds4::agent {

struct Options {
  std::string config_path;  // empty: /etc/ds4d/ds4d.toml if it exists
  bool check_config = false;
  std::optional<std::string> name, model, listen, socket, state_dir;
};

/// Parses the command line. A value means: go on. Otherwise the process is to exit with `exit_code`
/// (help, version and usage errors have been printed).
struct CommandLine {
  std::optional<Options> options;
  int exit_code = 0;
};
CommandLine parse_command_line(int argc, char** argv);

/// Reads the file, over it the *.toml of the folder of the same name with ".d" behind, in the order
/// of their names, over them the command line; fills in what the machine knows, and checks.
Result<Config> load_config(const Options& options);

}  // namespace ds4::agent
