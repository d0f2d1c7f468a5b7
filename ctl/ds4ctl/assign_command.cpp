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
#include "ctl/ds4ctl/gather.h"
#include "ctl/ds4ctl/link_survey.h"
#include "ctl/ds4ctl/plan_text.h"
#include "ctl/ds4ctl/progress.h"
#include "ctl/ds4ctl/proposal.h"

namespace ds4::ctl {
namespace {

constexpr std::chrono::milliseconds kTick{100};

std::string route_text(const AssignPlan& plan) {
  std::string text;
  for (const wire::StageSpec& stage : plan.route) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", stage.node, stage.layers);
  }
  return text;
}

struct AssignOptions {
  std::vector<std::string> words;
  bool automatic = false;
  bool dry_run = false;
  std::string model;  // with automatic: that the agents must have
};

/// What the ways between the new route's nodes are like. Never fails: the route serves already.
std::string measured_links(ControlTransport& transport, const std::vector<Node>& nodes,
                           std::chrono::milliseconds timeout) {
  if (nodes.size() < 2) return "";
  const LinkSurvey survey = survey_route(transport, nodes, timeout);
  std::string text;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const std::size_t next = (i + 1) % nodes.size();
    if (const auto& link = survey.links[i][next]) {
      text += fmt::format("{} -> {}: {}\n", nodes[i].name, nodes[next].name, link_text(*link));
    }
  }
  for (const std::string& note : survey.notes) fmt::print(stderr, "ds4ctl: note: {}\n", note);
  return text;
}

/// Carries out what is wished, and says what came of it.
Result<int> carry_out(const Access& access, std::span<const Wish> wishes,
                      std::span<const wire::NodeStatus> statuses,
                      std::chrono::milliseconds timeout) {
  DS4_ASSIGN(AssignPlan plan, plan_assignment(wishes, statuses));
  for (const std::string& note : plan.notes) fmt::print(stderr, "ds4ctl: note: {}\n", note);

  // The machine counts nodes in the order of the route.
  DS4_ASSIGN(const std::unique_ptr<ControlTransport> transport,
             connect_nodes(plan.nodes, access.identity));
  AssignMachine machine(std::move(plan));
  ProgressDisplay display(is_terminal(STDERR_FILENO));
  DS4_TRY(drive_assignment(machine, *transport,
                           [&](const auto& progress) { display.update(progress); }));
  DS4_TRY(write_stdout(
      fmt::format("epoch {} is ready: {}\n", machine.plan().epoch, route_text(machine.plan()))));
  DS4_TRY(write_stdout(measured_links(*transport, machine.plan().nodes, timeout)));
  return kExitOk;
}

Result<int> assign_as_typed(const Invocation& invocation, const AssignOptions& options) {
  DS4_ASSIGN(const Access access, open_access(invocation));
  DS4_ASSIGN(const std::vector<Wish> wishes, read_wishes(access.cluster, options.words));
  std::vector<Node> nodes;
  for (const Wish& wish : wishes) nodes.push_back(wish.node);

  const InterruptGuard guard;
  DS4_ASSIGN(const std::unique_ptr<ControlTransport> transport,
             connect_nodes(nodes, access.identity));
  DS4_ASSIGN(const std::vector<wire::NodeStatus> statuses,
             all_or_error(query_statuses(*transport, nodes, invocation.answer_timeout())));
  return carry_out(access, wishes, statuses, invocation.answer_timeout());
}

Result<int> assign_as_planned(const Invocation& invocation, const AssignOptions& options) {
  DS4_ASSIGN(const Access access, open_access(invocation));
  const InterruptGuard guard;
  DS4_ASSIGN(const Proposal proposal,
             propose(access, {options.words, options.model}, invocation.answer_timeout()));
  DS4_TRY(write_stdout(plan_text(proposal.input, proposal.plan)));
  if (options.dry_run) return kExitOk;
  if (!proposal.without_model.empty()) {
    return fail(ErrorCode::kMismatch,
                fmt::format("nothing was assigned: {} {} another model file than {}",
                            fmt::join(proposal.without_model, ", "),
                            proposal.without_model.size() == 1 ? "has" : "have", options.model));
  }
  // Only who is in the plan is asked for anything.
  std::vector<wire::NodeStatus> statuses;
  for (const PlannedStage& stage : proposal.plan.stages) {
    statuses.push_back(proposal.statuses[stage.node]);
  }
  return carry_out(access, proposal.wishes(), statuses, invocation.answer_timeout());
}

Result<int> assign(const Invocation& invocation, const AssignOptions& options) {
  if (options.automatic) return assign_as_planned(invocation, options);
  if (options.words.empty()) {
    return fail(ErrorCode::kInvalidArgument,
                "nothing to assign: name at least one NODE=RANGE, or let --auto plan");
  }
  return assign_as_typed(invocation, options);
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
  auto options = std::make_shared<AssignOptions>();
  CLI::App* command = app.add_subcommand(
      "assign", "Give every node its layers; the former route serves until the new one is loaded");
  command
      ->add_option("assignment", options->words,
                   "NODE=A:B or NODE=A:output, one for each node; with --auto names of nodes, "
                   "default all of the cluster")
      ->type_name("NODE=RANGE");
  CLI::Option* automatic = command->add_flag("--auto", options->automatic,
                                             "Assign what `ds4ctl plan` proposes for these nodes");
  command->add_flag("--dry-run", options->dry_run, "Print the plan and change nothing")
      ->needs(automatic);
  command
      ->add_option("--model", options->model, "Plan for this GGUF file, which the agents must have")
      ->type_name("FILE")
      ->needs(automatic);
  command->footer(
      "Example: ds4ctl assign alpha=0:20 beta=21:output\n"
      "All nodes must have the same model file. If one fails to load, or on Ctrl-C, nothing "
      "changes.");
  command->callback([options, &invocation] {
    invocation.action = [options, &invocation] { return assign(invocation, *options); };
  });
}

}  // namespace ds4::ctl
