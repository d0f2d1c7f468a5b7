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
#include "ctl/ds4ctl/route_nodes.h"
#include "ctl/ds4ctl/route_table.h"
#include "ctl/ds4ctl/status_audit.h"
#include "ctl/ds4ctl/status_table.h"

namespace ds4::ctl {
namespace {

struct StatusOptions {
  bool json = false;
  bool watch = false;
  bool spans = false;
  bool route = false;
};

constexpr std::chrono::seconds kBetweenLooks{1};
constexpr std::chrono::seconds kRouteWindow{2};  // that rates are made of

void wait(std::chrono::milliseconds time) {
  constexpr std::chrono::milliseconds kNap{100};
  for (; time.count() > 0 && !InterruptGuard::interrupted(); time -= kNap) {
    std::this_thread::sleep_for(kNap);
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
    const std::vector<NodeView> views =
        look_at(transport, cluster.nodes, timeout, {.spans = spans});
    if (InterruptGuard::interrupted()) break;
    if (json) {
      DS4_TRY(write_stdout(status_json(views, -1)));
    } else {
      const std::string_view before = terminal ? "\x1b[H\x1b[2J" : first ? "" : "\n";
      DS4_TRY(write_stdout(std::string(before) + text_of(views, spans)));
    }
    wait(kBetweenLooks);
  }
  return kExitOk;
}

/// Two looks make the rates; with --watch each look is the next one's first.
Result<int> route(const Invocation& invocation, const StatusOptions& options) {
  const wire::StatusRequest request{.audit = false};
  DS4_ASSIGN(const Access access, open_access(invocation));
  const InterruptGuard guard;
  DS4_ASSIGN(const RouteNodes reached, connect_with_route(access, invocation.answer_timeout()));
  const auto look = [&] {
    return look_at(*reached.transport, reached.nodes, invocation.answer_timeout(), request);
  };
  const bool clears = options.watch && !options.json && is_terminal(STDOUT_FILENO);
  std::vector<NodeView> before = look();
  while (true) {
    wait(kRouteWindow);
    std::vector<NodeView> now = look();
    if (InterruptGuard::interrupted()) return options.watch ? kExitOk : kExitInterrupted;
    const RouteFigures figures = route_figures(before, now);
    const std::string text =
        options.json ? route_json(figures, options.watch ? -1 : 2) : route_text(figures);
    DS4_TRY(write_stdout((clears ? "\x1b[H\x1b[2J" : "") + text));
    if (!options.watch) return all_hops_answer(figures) ? kExitOk : kExitFailure;
    before = std::move(now);
  }
}

Result<int> status(const Invocation& invocation, const StatusOptions& options) {
  if (options.route) return route(invocation, options);
  const std::chrono::milliseconds timeout = invocation.answer_timeout();
  DS4_ASSIGN(const Access access, open_access(invocation));
  const Cluster& cluster = access.cluster;
  const InterruptGuard guard;
  DS4_ASSIGN(const std::unique_ptr<ControlTransport> transport,
             connect_nodes(cluster.nodes, access.identity));
  if (options.watch) return watch(*transport, cluster, timeout, options.json, options.spans);
  const std::vector<NodeView> views =
      look_at(*transport, cluster.nodes, timeout, {.spans = options.spans});
  if (InterruptGuard::interrupted()) return kExitInterrupted;
  DS4_TRY(write_stdout(options.json ? status_json(views, 2) : text_of(views, options.spans)));
  return all_reachable(views) ? kExitOk : kExitFailure;
}

}  // namespace

void add_status_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* command = app.add_subcommand("status", "Show what every node holds and does");
  command->add_flag(
      "--json", options->json,
      "{\"nodes\":[...]}, with --route {\"hops\":[...]}; with --watch one line each time");
  CLI::Option* spans = command->add_flag(
      "--spans", options->spans,
      "Also every interval of the model file that a node holds, as the kernel has it");
  command
      ->add_flag("--route", options->route,
                 "What each hop of the route has done in the last two seconds")
      ->excludes(spans);
  command->add_flag("--watch", options->watch, "Show it again every second, until Ctrl-C");
  command->footer("Exit status 1 if a node does not answer.");
  command->callback([options, &invocation] {
    invocation.action = [options, &invocation] { return status(invocation, *options); };
  });
}

}  // namespace ds4::ctl
