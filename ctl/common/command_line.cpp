#include "ctl/common/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "ctl/common/exit_codes.h"
#include "ctl/common/terminal.h"

namespace ds4::ctl {
namespace {

/// Help and version come as exceptions with code 0.
int report_parse(const CLI::App& app, std::string_view program, const CLI::ParseError& error) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    app.exit(error);
    return std::fflush(stdout) == 0 ? kExitOk : kExitFailure;
  }
  const std::string text = fmt::format("{0}: {1}\nTry `{0} --help`.\n", program, error.what());
  std::fwrite(text.data(), 1, text.size(), stderr);
  return kExitUsage;
}

}  // namespace

int parse_and_run(CLI::App& app, std::string_view program, int argc, const char* const* argv,
                  const std::function<Result<int>()>& action) {
  ignore_sigpipe();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return report_parse(app, program, error);
  }
  try {
    const Result<int> code = action();
    return code ? *code : report(program, code.error());
  } catch (const std::exception& error) {  // out of memory, or a bug: still one sentence
    return report(program, Error{ErrorCode::kInternal, error.what()});
  }
}

}  // namespace ds4::ctl
