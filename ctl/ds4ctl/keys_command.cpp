// `ds4ctl keys`: who this machine is, and whom its agent trusts.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "agent/keys/key_files.h"
#include "ctl/common/exit_codes.h"
#include "ctl/common/terminal.h"
#include "ctl/ds4ctl/access.h"
#include "ctl/ds4ctl/commands.h"
#include "ctl/ds4ctl/control_client.h"

namespace ds4::ctl {
namespace {

using KeysBody = decltype(wire::Request::body);

struct KeysOptions {
  bool node_only = false;
  bool operator_only = false;
  bool everywhere = false;
  std::string name;
  std::string key;
};

/// Public keys alone; the agent need not run.
Result<int> show(const Invocation& invocation, const KeysOptions& options) {
  const std::string directory = state_dir_of(invocation);
  std::string text;
  if (!options.operator_only) {
    auto card = keys::load_card(directory);
    if (!card && (options.node_only || card.error().code != ErrorCode::kNotFound)) {
      return tl::unexpected<Error>(std::move(card).error());
    }
    if (card && !card->key) {
      return fail(ErrorCode::kUnsupported,
                  "this machine's agent runs with insecure = true and uses no keys");
    }
    if (card) text += keys::to_text(*card->key) + "\n";
  }
  if (!options.node_only) {
    DS4_ASSIGN(const keys::KeyPair pair, keys::load_key(directory, keys::KeyRole::kOperator));
    text += keys::to_text(pair.public_key) + "\n";
  }
  DS4_TRY(write_stdout(text));
  return kExitOk;
}

Result<int> create(const Invocation& invocation) {
  DS4_ASSIGN(const keys::KeyPair pair,
             keys::load_or_make_key(state_dir_of(invocation), keys::KeyRole::kOperator));
  DS4_TRY(write_stdout(keys::to_text(pair.public_key) + "\n"));
  return kExitOk;
}

std::string key_table(const std::vector<wire::KnownKey>& known) {
  std::size_t width = 4;
  for (const wire::KnownKey& key : known) width = std::max(width, key.name.size());
  std::string text = fmt::format("{:<{}}  {:<8}  KEY\n", "NAME", width, "STANDING");
  for (const wire::KnownKey& key : known) {
    const std::string_view standing = key.revoked                       ? "revoked"
                                      : key.key.starts_with("operator") ? "operator"
                                                                        : "route";
    text += fmt::format("{:<{}}  {:<8}  {}\n", key.name, width, standing, key.key);
  }
  return text;
}

/// Asks this machine's agent, or with --everywhere all of the cluster, and shows what each knows
/// then.
Result<int> ask(const Invocation& invocation, const KeysOptions& options, const KeysBody& body) {
  DS4_ASSIGN(const Access access,
             options.everywhere ? open_access(invocation) : open_local_access(invocation));
  const std::vector<Node>& nodes = access.cluster.nodes;
  const InterruptGuard guard;
  DS4_ASSIGN(const std::unique_ptr<ControlTransport> transport,
             connect_nodes(nodes, access.identity));
  const auto replies = ask_all(*transport, nodes, body, invocation.answer_timeout());
  std::string text;
  Error failed;
  for (std::size_t i = 0; i < replies.size(); ++i) {
    if (!replies[i]) {
      failed.code = replies[i].error().code;
      failed.message += (failed.message.empty() ? "" : "\n") + replies[i].error().message;
      continue;
    }
    if (options.everywhere) text += fmt::format("{}{}:\n", text.empty() ? "" : "\n", nodes[i].name);
    text += key_table(replies[i]->keys.value_or(std::vector<wire::KnownKey>{}));
  }
  DS4_TRY(write_stdout(text));
  if (!failed.message.empty()) return tl::unexpected<Error>(std::move(failed));
  return kExitOk;
}

void add_everywhere(CLI::App& command, KeysOptions& options) {
  command.add_flag("--everywhere", options.everywhere,
                   "On every node of the cluster file, not on this machine's agent alone");
}

}  // namespace

void add_keys_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<KeysOptions>();
  CLI::App* keys = app.add_subcommand("keys", "Who this machine is, and whom its agent trusts");
  keys->require_subcommand(1);
  keys->footer(
      "To let machines a and b form a route, assigned from a:\n"
      "  on a:  ds4ctl keys show --operator\n"
      "  on b:  ds4ctl keys trust a operator:...   (what a printed)\n"
      "         ds4ctl keys show --node\n"
      "  on a:  b = { address = \"tcp://...\", key = \"node:...\" } in the cluster file\n"
      "         ds4ctl assign a=... b=...");
  const auto on_call = [&invocation, options](CLI::App* command, auto action) {
    command->callback([&invocation, options, action] {
      invocation.action = [&invocation, options, action] { return action(invocation, *options); };
    });
  };

  CLI::App* showing = keys->add_subcommand("show", "Print this machine's public keys");
  auto* node = showing->add_flag("--node", options->node_only, "Its agent's alone");
  showing->add_flag("--operator", options->operator_only, "Its operator's alone")->excludes(node);
  on_call(showing, [](const Invocation& call, const KeysOptions& o) { return show(call, o); });

  CLI::App* creating = keys->add_subcommand(
      "create", "Make an operator key where there is no agent that does (see --state-dir)");
  on_call(creating, [](const Invocation& call, const KeysOptions&) { return create(call); });

  CLI::App* listing = keys->add_subcommand("list", "Show every key that the agent knows");
  add_everywhere(*listing, *options);
  on_call(listing, [](const Invocation& call, const KeysOptions& o) {
    return ask(call, o, wire::KeysRequest{});
  });

  CLI::App* trusting = keys->add_subcommand(
      "trust", "Let an operator command the agent; or take the revocation of a node back");
  trusting->add_option("name", options->name, "Whose key it is")->type_name("NAME")->required();
  trusting->add_option("key", options->key, "operator:... or node:...")
      ->type_name("KEY")
      ->required();
  add_everywhere(*trusting, *options);
  on_call(trusting, [](const Invocation& call, const KeysOptions& o) {
    return ask(call, o, wire::TrustRequest{o.name, o.key});
  });

  CLI::App* revoking =
      keys->add_subcommand("revoke", "Cut somebody off at once, and until he is trusted again");
  revoking->add_option("who", options->name, "A name of `ds4ctl keys list`, or a key")
      ->type_name("NAME|KEY")
      ->required();
  add_everywhere(*revoking, *options);
  on_call(revoking, [](const Invocation& call, const KeysOptions& o) {
    return ask(call, o, wire::RevokeRequest{o.name});
  });
}

}  // namespace ds4::ctl
