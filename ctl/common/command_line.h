#pragma once
// The way both programs parse and run: one sentence for an error, one exit code.
#include <functional>
#include <string_view>

#include "engine/base/result.h"

namespace CLI {
class App;
}

namespace ds4::ctl {

/// Parses, then runs `action` (which the chosen subcommand has set), and returns the exit code.
/// Prints help, version and errors itself.
int parse_and_run(CLI::App& app, std::string_view program, int argc, const char* const* argv,
                  const std::function<Result<int>()>& action);

}  // namespace ds4::ctl
