// ds4ctl: who holds which layers, what is resident, and a client for one question.
#include <CLI/CLI.hpp>
#include <string>

#include "ctl/common/command_line.h"
#include "ctl/common/exit_codes.h"
#include "ctl/ds4ctl/commands.h"

int main(int argc, char** argv) {
  CLI::App app(
      "Assigns the layers of a model to ds4d agents, shows what each holds, asks questions.",
      "ds4ctl");
  ds4::ctl::Invocation invocation;
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", std::string("ds4ctl ") + DS4_VERSION_TEXT);
  app.add_option("--cluster", invocation.cluster_file,
                 "File that names the nodes ([nodes] name = \"tcp://host:port\"); default "
                 "/etc/ds4d/cluster.toml, or without it one agent on this machine")
      ->type_name("FILE");
  app.add_option("--state-dir", invocation.state_dir,
                 "State directory of this machine's agent, where the keys are; default "
                 "/var/lib/ds4d")
      ->type_name("DIR");
  app.add_option("--timeout", invocation.timeout_s,
                 "How long to wait for a node's answer; default 3")
      ->check(CLI::Range(0.1, 3600.0))
      ->type_name("SECONDS");
  app.footer(std::string(ds4::ctl::kExitCodesHelp));
  ds4::ctl::add_assign_command(app, invocation);
  ds4::ctl::add_plan_command(app, invocation);
  ds4::ctl::add_status_command(app, invocation);
  ds4::ctl::add_top_command(app, invocation);
  ds4::ctl::add_cover_command(app, invocation);
  ds4::ctl::add_run_command(app, invocation);
  ds4::ctl::add_release_command(app, invocation);
  ds4::ctl::add_drain_command(app, invocation);
  ds4::ctl::add_keys_command(app, invocation);
  return ds4::ctl::parse_and_run(app, "ds4ctl", argc, argv, [&] { return invocation.action(); });
}
