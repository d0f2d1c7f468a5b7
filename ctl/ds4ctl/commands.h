#pragma once
// The subcommands of ds4ctl, one file each. Each adds its options to the program's command line
// and, when it is the one that was called, leaves in `invocation` what is to be done.
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "engine/base/result.h"

namespace CLI {
class App;
}

namespace ds4::ctl {

struct Invocation {
  std::string cluster_file;             // of --cluster; empty: the default
  std::string state_dir;                // of --state-dir: where this machine's keys are
  double timeout_s = 3;                 // of --timeout: for one node's answer
  std::function<Result<int>()> action;  // the exit code, or the error to report

  std::chrono::milliseconds answer_timeout() const {
    return std::chrono::milliseconds(static_cast<std::int64_t>(timeout_s * 1000));
  }
};

void add_assign_command(CLI::App& app, Invocation& invocation);
void add_plan_command(CLI::App& app, Invocation& invocation);
void add_status_command(CLI::App& app, Invocation& invocation);
void add_top_command(CLI::App& app, Invocation& invocation);
void add_cover_command(CLI::App& app, Invocation& invocation);
void add_run_command(CLI::App& app, Invocation& invocation);
void add_release_command(CLI::App& app, Invocation& invocation);
void add_drain_command(CLI::App& app, Invocation& invocation);
void add_keys_command(CLI::App& app, Invocation& invocation);

}  // namespace ds4::ctl
