// `ds4ctl top`: the nodes and the route, live.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <ctime>
#include <memory>

#include "ctl/common/exit_codes.h"
#include "ctl/common/full_screen.h"
#include "ctl/common/terminal.h"
#include "ctl/ds4ctl/access.h"
#include "ctl/ds4ctl/commands.h"
#include "ctl/ds4ctl/node_watch.h"
#include "ctl/ds4ctl/route_nodes.h"
#include "ctl/ds4ctl/top_screen.h"

namespace ds4::ctl {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kTurn{50};  // how long a key may wait
constexpr std::chrono::milliseconds kRedraw{500};
constexpr std::size_t kAnyHeight = 100'000;

std::string clock_text() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  return fmt::format("{:%H:%M:%S}", local);
}

TopSnapshot snapshot_of(const NodeWatch& watch, const ControlTransport& transport) {
  TopSnapshot snapshot{clock_text(), watch.before(), watch.now()};
  for (std::size_t i = 0; i < snapshot.now.size(); ++i) {
    if (snapshot.now[i].status || !transport.keys_refused(i)) continue;
    snapshot.now[i].status =
        fail(ErrorCode::kPermission, "does not let this ds4ctl in: `ds4ctl status` says why");
  }
  return snapshot;
}

std::string text_of(const TopSnapshot& snapshot, ScreenSize size, bool colour) {
  std::string text;
  for (const ScreenLine& line : render_top(snapshot, size.columns, size.lines)) {
    text += painted(line, colour) + '\n';
  }
  return text;
}

void take_turn(NodeWatch& watch, ControlTransport& transport) {
  for (const Outgoing& outgoing : watch.due(Clock::now())) {
    transport.send(outgoing.node, outgoing.request);
  }
  for (const Incoming& incoming : transport.receive(kTurn)) {
    watch.on_reply(incoming.node, incoming.reply, Clock::now());
  }
}

/// Until q or Ctrl-C, which is how a view is meant to end: no failure.
Result<int> live(NodeWatch& watch, ControlTransport& transport) {
  FullScreen screen;
  const bool colour = wants_colour(STDOUT_FILENO);
  Clock::time_point next{};
  ScreenSize drawn{0, 0};
  while (!InterruptGuard::interrupted()) {
    take_turn(watch, transport);
    const ScreenSize size = screen.size();
    const bool resized = size.columns != drawn.columns || size.lines != drawn.lines;
    if (resized || Clock::now() >= next) {
      DS4_TRY(screen.show(text_of(snapshot_of(watch, transport), size, colour)));
      next = Clock::now() + kRedraw;
      drawn = size;
    }
    DS4_ASSIGN(const std::optional<char> key, screen.key(std::chrono::milliseconds(0)));
    if (key == 'q' || key == 'Q') break;
    if (key) next = {};
  }
  return kExitOk;
}

/// Watches for two intervals, so that there are rates; longer only for who has not answered yet.
Result<int> once(NodeWatch& watch, ControlTransport& transport, const NodeWatch::Pace& pace) {
  const auto enough = Clock::now() + 2 * pace.every;
  const auto patience = enough + pace.timeout;
  while (!InterruptGuard::interrupted()) {
    const auto now = Clock::now();
    if (now >= patience || (now >= enough && all_reachable(watch.now()))) break;
    take_turn(watch, transport);
  }
  if (InterruptGuard::interrupted()) return kExitInterrupted;
  const TopSnapshot snapshot = snapshot_of(watch, transport);
  ScreenSize size = screen_size(STDOUT_FILENO);
  size.lines = kAnyHeight;
  if (!is_terminal(STDOUT_FILENO)) size.columns = kAnyHeight;
  DS4_TRY(write_stdout(text_of(snapshot, size, wants_colour(STDOUT_FILENO))));
  return all_reachable(snapshot.now) ? kExitOk : kExitFailure;
}

Result<int> top(const Invocation& invocation, bool one_frame) {
  if (!one_frame && (!is_terminal(STDOUT_FILENO) || !is_terminal(STDIN_FILENO))) {
    return fail(ErrorCode::kInvalidArgument,
                "top needs a terminal: `ds4ctl top --once` writes one frame as text");
  }
  DS4_ASSIGN(const Access access, open_access(invocation));
  const InterruptGuard guard;
  DS4_ASSIGN(RouteNodes reached, connect_with_route(access, invocation.answer_timeout()));
  NodeWatch::Pace pace;
  pace.timeout = invocation.answer_timeout();
  NodeWatch watch(reached.nodes, pace);
  if (one_frame) return once(watch, *reached.transport, pace);
  return live(watch, *reached.transport);
}

}  // namespace

void add_top_command(CLI::App& app, Invocation& invocation) {
  auto one_frame = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("top", "Watch nodes and their route, live, until q");
  command->add_flag("--once", *one_frame,
                    "Watch for some seconds, write one frame as text, and end");
  command->footer("With --once, the exit status is 1 if a node does not answer.");
  command->callback([one_frame, &invocation] {
    invocation.action = [one_frame, &invocation] { return top(invocation, *one_frame); };
  });
}

}  // namespace ds4::ctl
