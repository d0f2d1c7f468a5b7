#include "ctl/ds4ctl/control_client.h"

#include <fmt/format.h>

#include <atomic>

#include "ctl/common/terminal.h"

namespace ds4::ctl {
namespace {

using Clock = std::chrono::steady_clock;

std::uint64_t next_request_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

Error no_answer(const Node& node, std::chrono::milliseconds timeout) {
  return {ErrorCode::kTimeout,
          fmt::format("node {} does not answer at {} within {:.3g} s: check that ds4d runs there "
                      "(systemctl status ds4d) and that the address and port are right",
                      node.name, node.address, std::chrono::duration<double>(timeout).count())};
}

Error refused(const Node& node) {
  return {
      ErrorCode::kPermission,
      fmt::format("the agent at {} does not let this ds4ctl in: either it does not trust this "
                  "machine's operator key (`ds4ctl keys show` here prints it; `ds4ctl keys trust "
                  "NAME KEY` there trusts it), or it is not node {} of the cluster file (`ds4ctl "
                  "keys show` there prints its key), or its ds4d.toml says insecure = true",
                  node.address, node.name)};
}

}  // namespace

std::vector<Result<wire::Reply>> ask_all(ControlTransport& transport, std::span<const Node> nodes,
                                         const RequestBody& body,
                                         std::chrono::milliseconds timeout) {
  const std::vector<std::optional<RequestBody>> bodies(nodes.size(), body);
  return ask_each(transport, nodes, bodies, timeout);
}

std::vector<Result<wire::Reply>> ask_each(ControlTransport& transport, std::span<const Node> nodes,
                                          std::span<const std::optional<RequestBody>> bodies,
                                          std::chrono::milliseconds timeout) {
  std::vector<Result<wire::Reply>> replies;
  std::vector<std::uint64_t> awaited;  // 0: has answered, or was not asked
  std::size_t missing = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (!bodies[i]) {
      replies.push_back(fail(ErrorCode::kNotFound, "was not asked"));
      awaited.push_back(0);
      continue;
    }
    replies.push_back(tl::unexpected<Error>(no_answer(nodes[i], timeout)));
    awaited.push_back(next_request_id());
    transport.send(i, wire::Request{awaited[i], *bodies[i]});
    ++missing;
  }
  const auto deadline = Clock::now() + timeout;
  while (missing > 0 && !InterruptGuard::interrupted()) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) break;
    for (Incoming& incoming : transport.receive(std::min(left, std::chrono::milliseconds(200)))) {
      std::uint64_t& id = awaited.at(incoming.node);
      if (id == 0 || (incoming.reply && incoming.reply->id != id)) continue;  // a late one
      id = 0;
      --missing;
      if (!incoming.reply) {
        incoming.reply.error().message =
            fmt::format("node {} ({}): {}", nodes[incoming.node].name, nodes[incoming.node].address,
                        incoming.reply.error().message);
      }
      replies[incoming.node] = std::move(incoming.reply);
      if (replies[incoming.node] && replies[incoming.node]->error) {
        Error error = *replies[incoming.node]->error;
        replies[incoming.node] =
            fail(std::move(error), fmt::format("node {} refused", nodes[incoming.node].name));
      }
    }
  }
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (awaited[i] == 0) continue;
    if (InterruptGuard::interrupted()) {
      replies[i] = fail(ErrorCode::kCancelled, "interrupted");
    } else if (transport.keys_refused(i)) {
      replies[i] = tl::unexpected<Error>(refused(nodes[i]));
    }
  }
  return replies;
}

std::vector<Result<wire::NodeStatus>> query_statuses(ControlTransport& transport,
                                                     std::span<const Node> nodes,
                                                     std::chrono::milliseconds timeout,
                                                     const wire::StatusRequest& asked) {
  std::vector<Result<wire::NodeStatus>> statuses;
  auto replies = ask_all(transport, nodes, asked, timeout);
  for (std::size_t i = 0; i < replies.size(); ++i) {
    if (!replies[i]) {
      statuses.push_back(tl::unexpected<Error>(std::move(replies[i]).error()));
    } else if (!replies[i]->status) {
      statuses.push_back(fail(ErrorCode::kCorrupt,
                              fmt::format("node {} answers without its status: is another program "
                                          "listening at {}?",
                                          nodes[i].name, nodes[i].address)));
    } else {
      statuses.push_back(std::move(*replies[i]->status));
    }
  }
  return statuses;
}

}  // namespace ds4::ctl
