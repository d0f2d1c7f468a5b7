// ds4-eval: what the engine computes and how fast, without any agent.
#include <CLI/CLI.hpp>
#include <string>

#include "ctl/common/command_line.h"
#include "ctl/common/exit_codes.h"
#include "ctl/ds4_eval/commands.h"

int main(int argc, char** argv) {
  CLI::App app("Logits, perplexity, speed and text of a model, through the code that agents run.",
               "ds4-eval");
  ds4::eval::Action action;
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("ds4-eval ") + DS4_VERSION_TEXT);
  app.footer(std::string(ds4::ctl::kExitCodesHelp));
  ds4::eval::add_logits_command(app, action);
  ds4::eval::add_perplexity_command(app, action);
  ds4::eval::add_bench_command(app, action);
  ds4::eval::add_generate_command(app, action);
  return ds4::ctl::parse_and_run(app, "ds4-eval", argc, argv, [&] { return action(); });
}
