#include <CLI/CLI.hpp>
#include <memory>

#include "ctl/common/exit_codes.h"
#include "ctl/common/terminal.h"
#include "ctl/ds4ctl/access.h"
#include "ctl/ds4ctl/commands.h"
#include "ctl/ds4ctl/plan_text.h"
#include "ctl/ds4ctl/proposal.h"

namespace ds4::ctl {
namespace {

struct PlanOptions {
  ProposalOptions proposal;
  bool json = false;
};

Result<int> plan(const Invocation& invocation, const PlanOptions& options) {
  DS4_ASSIGN(const Access access, open_access(invocation));
  const InterruptGuard guard;
  DS4_ASSIGN(const Proposal proposal,
             propose(access, options.proposal, invocation.answer_timeout()));
  DS4_TRY(write_stdout(options.json ? plan_json(proposal.input, proposal.plan, 2)
                                    : plan_text(proposal.input, proposal.plan)));
  return kExitOk;
}

}  // namespace

void add_plan_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* command =
      app.add_subcommand("plan", "Propose who holds which layers, by memory, speed and links");
  command
      ->add_option("nodes", options->proposal.names,
                   "Nodes of the cluster file; default: all of them")
      ->type_name("NODE");
  command
      ->add_option("--model", options->proposal.model,
                   "GGUF file to plan for; default: the one that the agents have")
      ->type_name("FILE");
  command->add_flag("--measure", options->proposal.measure,
                    "Measure speeds anew, even where they are known");
  command->add_flag("--json", options->json, "Print the plan as JSON");
  command->footer(
      "Makes the slowest stage as fast as the nodes' memory allows. Changes nothing: `ds4ctl "
      "assign --auto` applies the same plan.");
  command->callback([options, &invocation] {
    invocation.action = [options, &invocation] { return plan(invocation, *options); };
  });
}

}  // namespace ds4::ctl
