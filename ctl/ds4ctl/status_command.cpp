#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <thread>

#include "ctl/common/exit_codes.h"
#include "ctl/common/terminal.h"
#include "ctl/ds4ctl/access.h"
#include "ctl/ds4ctl/commands.h"
#include "ctl/ds4ctl/control_client.h"
#include "ctl/ds4ctl/status_audit.h"
#include "ctl/ds4ctl/status_table.h"

namespace ds4::ctl {
namespace {

struct StatusOptions {
  bool json = false;
  bool watch = false;
  bool spans = false;
};

std::vector<NodeView> look(ControlTransport& transport, const Cluster& cluster,
                           std::chrono::milliseconds timeout, bool spans) {
  std::vector<NodeView> views;
  auto statuses = query_statuses(transport, cluster.nodes, timeout, spans);
  for (std::size_t i = 0; i < statuses.size(); ++i) {
    views.push_back({cluster.nodes[i], std::move(statuses[i])});
  }
  return views;
}

void wait_a_second() {
  for (int i = 0; i < 10 && !InterruptGuard::interrupted(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

std::string text_of(std::span<const NodeView> views, bool spans) {
  return status_sentence(views) + status_table(views, wants_colour(STDOUT_FILENO)) +
         (spans ? spans_text(views) : std::string());
}

/// Until Ctrl-C, which is how a watch is meant to end: no failure.
Result<int> watch(ControlTransport& transport, const Cluster& cluster,
                  std::chrono::milliseconds timeout, bool json, bool spans) {
  const bool terminal = is_terminal(STDOUT_FILENO);
  for (bool first = true; !InterruptGuard::interrupted(); first = false) {
    const std::vector<NodeView> views = look(transport, cluster, timeout, spans);
    if (InterruptGuard::interrupted()) break;
    if (json) {
      DS4_TRY(write_stdout(status_json(views, -1)));
    } else {
      const std::string_view before = terminal ? "\x1b[H\x1b[2J" : first ? "" : "\n";
      DS4_TRY(write_stdout(std::string(before) + text_of(views, spans)));
    }
    wait_a_second();
  }
  return kExitOk;
}

Result<int> status(const Invocation& invocation, const StatusOptions& options) {
  const std::chrono::milliseconds timeout = invocation.answer_timeout();
  DS4_ASSIGN(const Access access, open_access(invocation));
  const Cluster& cluster = access.cluster;
  const InterruptGuard guard;
  DS4_ASSIGN(const std::unique_ptr<ControlTransport> transport,
             connect_nodes(cluster.nodes, access.identity));
  if (options.watch) return watch(*transport, cluster, timeout, options.json, options.spans);
  const std::vector<NodeView> views = look(*transport, cluster, timeout, options.spans);
  if (InterruptGuard::interrupted()) return kExitInterrupted;
  DS4_TRY(write_stdout(options.json ? status_json(views, 2) : text_of(views, options.spans)));
  return all_reachable(views) ? kExitOk : kExitFailure;
}

}  // namespace

void add_status_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* command = app.add_subcommand("status", "Show what every node holds and does");
  command->add_flag("--json", options->json,
                    "{\"nodes\":[...]}; with --watch one line each second");
  command->add_flag(
      "--spans", options->spans,
      "Also every interval of the model file that a node holds, as the kernel has it");
  command->add_flag("--watch", options->watch, "Show it again every second, until Ctrl-C");
  command->footer("Exit status 1 if a node does not answer.");
  command->callback([options, &invocation] {
    invocation.action = [options, &invocation] { return status(invocation, *options); };
  });
}

}  // namespace ds4::ctl
