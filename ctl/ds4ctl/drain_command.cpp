// `ds4ctl drain`: before planned work. Agents answer no new requests of their programs, and the
// command waits until those that run have ended.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <thread>

#include "ctl/common/exit_codes.h"
#include "ctl/common/terminal.h"
#include "ctl/ds4ctl/access.h"
#include "ctl/ds4ctl/commands.h"
#include "ctl/ds4ctl/control_client.h"

namespace ds4::ctl {
namespace {

constexpr std::chrono::milliseconds kLook{200};

struct DrainOptions {
  std::vector<std::string> names;
  bool undo = false;
};

/// "alpha: 3 requests are running"; empty if none is.
std::string running_text(const wire::NodeStatus& status) {
  if (status.requests == 0) return "";
  return fmt::format(
      "{}: {} running\n", status.name,
      status.requests == 1 ? "1 request is" : fmt::format("{} requests are", status.requests));
}

/// Says what still runs whenever that changes. Ctrl-C ends the waiting, not the draining.
Result<int> wait_until_drained(ControlTransport& transport, const std::vector<Node>& nodes,
                               std::chrono::milliseconds timeout) {
  std::string said;
  for (;;) {
    std::string text;
    for (auto& status : query_statuses(transport, nodes, timeout)) {
      if (!status) return tl::unexpected<Error>(std::move(status).error());
      text += running_text(*status);
    }
    if (text.empty()) break;
    if (text != said) DS4_TRY(write_stdout(text));
    said = text;
    if (InterruptGuard::interrupted()) return kExitInterrupted;
    std::this_thread::sleep_for(kLook);
  }
  DS4_TRY(
      write_stdout("drained: no request is running, and new ones are refused until `ds4ctl drain "
                   "--undo` or the next start of the agents\n"));
  return kExitOk;
}

Result<int> drain(const Invocation& invocation, const DrainOptions& options) {
  DS4_ASSIGN(const Access access, open_access(invocation));
  DS4_ASSIGN(const std::vector<Node> nodes, chosen_nodes(access.cluster, options.names));
  const InterruptGuard guard;
  DS4_ASSIGN(const std::unique_ptr<ControlTransport> transport,
             connect_nodes(nodes, access.identity));
  for (auto& reply :
       ask_all(*transport, nodes, wire::DrainRequest{!options.undo}, invocation.answer_timeout())) {
    if (!reply) return tl::unexpected<Error>(std::move(reply).error());
  }
  if (!options.undo) return wait_until_drained(*transport, nodes, invocation.answer_timeout());
  DS4_TRY(write_stdout("new requests are answered again\n"));
  return kExitOk;
}

}  // namespace

void add_drain_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<DrainOptions>();
  CLI::App* command = app.add_subcommand(
      "drain", "Before planned work: refuse new requests, wait until those that run have ended");
  command->add_option("nodes", options->names, "Nodes of the cluster file; default: all of them")
      ->type_name("NODE");
  command->add_flag("--undo", options->undo, "Take new requests again");
  command->footer(
      "Requests go through every node of a route: before work on one of them, drain them all.");
  command->callback([options, &invocation] {
    invocation.action = [options, &invocation] { return drain(invocation, *options); };
  });
}

}  // namespace ds4::ctl
