#include "ctl/ds4ctl/assign_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "ctl/common/exit_codes.h"
#include "ctl/common/terminal.h"
#include "ctl/ds4ctl/access.h"
#include "ctl/ds4ctl/assign_plan.h"
#include "ctl/ds4ctl/commands.h"
#include "ctl/ds4ctl/progress.h"

namespace ds4::ctl {
namespace {

constexpr std::chrono::milliseconds kTick{100};

/// Everybody's status, or one error with a sentence for each that gave none.
Result<std::vector<wire::NodeStatus>> all_or_error(std::vector<Result<wire::NodeStatus>> answers) {
  std::vector<wire::NodeStatus> statuses;
  Error error;
  for (Result<wire::NodeStatus>& answer : answers) {
    if (answer) {
      statuses.push_back(std::move(*answer));
    } else {
      error.code = answer.error().code;
      error.message +=
          error.message.empty() ? answer.error().message : "\n" + answer.error().message;
    }
  }
  if (InterruptGuard::interrupted()) return fail(ErrorCode::kCancelled, "interrupted");
  if (!error.message.empty()) return tl::unexpected<Error>(std::move(error));
  return statuses;
}

std::string route_text(const AssignPlan& plan) {
  std::string text;
  for (const wire::StageSpec& stage : plan.route) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", stage.node, stage.layers);
  }
  return text;
}

Result<int> assign(const Invocation& invocation, const std::vector<std::string>& words) {
  DS4_ASSIGN(const Access access, open_access(invocation));
  DS4_ASSIGN(const std::vector<Wish> wishes, read_wishes(access.cluster, words));
  std::vector<Node> nodes;
  for (const Wish& wish : wishes) nodes.push_back(wish.node);

  const InterruptGuard guard;
  DS4_ASSIGN(const std::unique_ptr<ControlTransport> transport,
             connect_nodes(nodes, access.identity));
  DS4_ASSIGN(const std::vector<wire::NodeStatus> statuses,
             all_or_error(query_statuses(*transport, nodes, invocation.answer_timeout())));
  DS4_ASSIGN(AssignPlan plan, plan_assignment(wishes, statuses));
  for (const std::string& note : plan.notes) fmt::print(stderr, "ds4ctl: note: {}\n", note);

  // The machine counts nodes in the order of the route; the connections stand as they were typed.
  DS4_ASSIGN(const std::unique_ptr<ControlTransport> route_transport,
             connect_nodes(plan.nodes, access.identity));
  AssignMachine machine(std::move(plan));
  ProgressDisplay display(is_terminal(STDERR_FILENO));
  DS4_TRY(drive_assignment(machine, *route_transport,
                           [&](const auto& progress) { display.update(progress); }));
  DS4_TRY(write_stdout(
      fmt::format("epoch {} is ready: {}\n", machine.plan().epoch, route_text(machine.plan()))));
  return kExitOk;
}

}  // namespace

Result<void> drive_assignment(
    AssignMachine& machine, ControlTransport& transport,
    const std::function<void(const std::vector<NodeProgress>&)>& on_progress) {
  const auto now = [] { return std::chrono::steady_clock::now(); };
  machine.start(now());
  while (!machine.done()) {
    for (const Outgoing& outgoing : machine.take_outgoing()) {
      transport.send(outgoing.node, outgoing.request);
    }
    for (const Incoming& incoming : transport.receive(kTick)) {
      machine.on_reply(incoming.node, incoming.reply, now());
    }
    if (InterruptGuard::interrupted()) machine.on_interrupt(now());
    machine.on_tick(now());
    on_progress(machine.progress());
  }
  return machine.outcome();
}

void add_assign_command(CLI::App& app, Invocation& invocation) {
  auto words = std::make_shared<std::vector<std::string>>();
  CLI::App* command = app.add_subcommand(
      "assign", "Give every node its layers; the former route serves until the new one is loaded");
  command->add_option("assignment", *words, "NODE=A:B or NODE=A:output, one for each node")
      ->type_name("NODE=RANGE")
      ->required();
  command->footer(
      "Example: ds4ctl assign alpha=0:20 beta=21:output\n"
      "All nodes must have the same model file. If one fails to load, or on Ctrl-C, nothing "
      "changes.");
  command->callback([words, &invocation] {
    invocation.action = [words, &invocation] { return assign(invocation, *words); };
  });
}

}  // namespace ds4::ctl
