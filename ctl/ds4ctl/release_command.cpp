#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "ctl/common/exit_codes.h"
#include "ctl/common/terminal.h"
#include "ctl/ds4ctl/access.h"
#include "ctl/ds4ctl/commands.h"
#include "ctl/ds4ctl/control_client.h"
#include "engine/base/bytes_text.h"

namespace ds4::ctl {
namespace {

/// The other stages of the route that this node leaves.
std::string route_mates(const wire::NodeStatus& status) {
  std::string names;
  for (const wire::StageSpec& stage : status.route) {
    if (stage.node == status.name) continue;
    names += names.empty() ? stage.node : ", " + stage.node;
  }
  return names;
}

Result<int> release(const Invocation& invocation, const std::string& name) {
  DS4_ASSIGN(const Access access, open_access(invocation));
  DS4_ASSIGN(const Node node, access.cluster.find(name));
  const std::span<const Node> nodes(&node, 1);
  const InterruptGuard guard;
  DS4_ASSIGN(const std::unique_ptr<ControlTransport> transport,
             connect_nodes(nodes, access.identity));
  DS4_ASSIGN(const wire::NodeStatus before,
             std::move(query_statuses(*transport, nodes, invocation.answer_timeout()).front()));
  // Giving back tens of gigabytes may take the kernel a while.
  DS4_TRY(ask_all(*transport, nodes, wire::ReleaseRequest{}, std::chrono::seconds(30)).front());

  std::string text = before.layers.empty()
                         ? fmt::format("{} had no layers\n", before.name)
                         : fmt::format("{} released {} ({})\n", before.name, before.layers,
                                       bytes_text(before.cover.cover_bytes));
  if (const std::string mates = route_mates(before); !mates.empty()) {
    text += fmt::format("the route of epoch {} lacks it now; still holding layers: {}\n",
                        before.epoch, mates);
  }
  DS4_TRY(write_stdout(text));
  return kExitOk;
}

}  // namespace

void add_release_command(CLI::App& app, Invocation& invocation) {
  auto name = std::make_shared<std::string>();
  CLI::App* command =
      app.add_subcommand("release", "Let a node give up its layers and free their memory");
  command->add_option("node", *name, "A node of the cluster file")->type_name("NODE")->required();
  command->callback([name, &invocation] {
    invocation.action = [name, &invocation] { return release(invocation, *name); };
  });
}

}  // namespace ds4::ctl
