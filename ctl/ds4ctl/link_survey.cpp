#include "ctl/ds4ctl/link_survey.h"

#include <fmt/format.h>

#include <algorithm>

namespace ds4::ctl {
namespace {

/// A probe takes its time: so many times the usual patience.
constexpr int kProbePatience = 6;

std::string key_text(const Node& node) {
  return node.key ? keys::to_text(*node.key) : "";
}

/// Lets every node's key in at every other agent, for probes. Nothing to do where there are none.
void expect_probes(ControlTransport& transport, std::span<const Node> nodes, bool on,
                   std::chrono::milliseconds timeout) {
  wire::ExpectRequest request;
  for (const Node& node : nodes) {
    if (on && node.key) request.keys.push_back(key_text(node));
  }
  if (std::none_of(nodes.begin(), nodes.end(), [](const Node& node) { return node.key; })) return;
  (void)ask_all(transport, nodes, request, timeout);  // a refusal shows as a probe that fails
}

/// Hops with distinct first nodes, at once.
void measure_round(ControlTransport& transport, std::span<const Node> nodes,
                   std::span<const Hop> hops, std::chrono::milliseconds timeout,
                   LinkSurvey& survey) {
  std::vector<std::optional<RequestBody>> bodies(nodes.size());
  for (const auto& [from, to] : hops) {
    bodies[from] = wire::ProbeRequest{nodes[to].address, key_text(nodes[to])};
  }
  const auto replies = ask_each(transport, nodes, bodies, kProbePatience * timeout);
  for (const auto& [from, to] : hops) {
    const Result<wire::Reply>& reply = replies[from];
    if (reply && reply->probe) {
      survey.links[from][to] = *reply->probe;
    } else {
      survey.notes.push_back(
          fmt::format("the link {} -> {} could not be measured: {}", nodes[from].name,
                      nodes[to].name, reply ? "the agent gave no figures" : reply.error().message));
    }
  }
}

LinkSurvey survey_rounds(ControlTransport& transport, std::span<const Node> nodes,
                         std::span<const std::vector<Hop>> rounds,
                         std::chrono::milliseconds timeout) {
  LinkSurvey survey;
  survey.links.assign(nodes.size(), std::vector<std::optional<wire::ProbeFigures>>(nodes.size()));
  for (const std::vector<Hop>& hops : rounds) {
    expect_probes(transport, nodes, true, timeout);  // anew: the permission ends by itself
    measure_round(transport, nodes, hops, timeout, survey);
  }
  expect_probes(transport, nodes, false, timeout);
  return survey;
}

}  // namespace

LinkSurvey survey_all(ControlTransport& transport, std::span<const Node> nodes,
                      std::chrono::milliseconds timeout) {
  std::vector<std::vector<Hop>> rounds;
  for (std::size_t distance = 1; distance < nodes.size(); ++distance) {
    std::vector<Hop>& hops = rounds.emplace_back();
    for (std::size_t i = 0; i < nodes.size(); ++i)
      hops.emplace_back(i, (i + distance) % nodes.size());
  }
  return survey_rounds(transport, nodes, rounds, timeout);
}

LinkSurvey survey_route(ControlTransport& transport, std::span<const Node> nodes,
                        std::chrono::milliseconds timeout) {
  std::vector<std::vector<Hop>> rounds(1);
  for (std::size_t i = 0; i < nodes.size(); ++i) rounds[0].emplace_back(i, (i + 1) % nodes.size());
  return survey_rounds(transport, nodes, rounds, timeout);
}

std::string link_text(const wire::ProbeFigures& link) {
  return fmt::format("{:.2f} ms, {:.0f} MB/s", static_cast<double>(link.round_trip_us) / 1e3,
                     static_cast<double>(link.bytes_per_s) / 1e6);
}

}  // namespace ds4::ctl
