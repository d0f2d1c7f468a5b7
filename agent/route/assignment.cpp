#include "agent/route/assignment.h"

#include <fmt/format.h>

#include <charconv>
#include <set>

#include "agent/keys/key.h"

namespace ds4::agent {
namespace {

Result<std::uint32_t> find_stage(const std::vector<wire::StageSpec>& route, std::string_view node) {
  for (std::uint32_t i = 0; i < route.size(); ++i) {
    if (route[i].node == node) return i;
  }
  return fail(ErrorCode::kNotFound, fmt::format("the route has no stage for node {}", node));
}

/// Either every stage of a route has a key, or the administrators of all its nodes wrote
/// insecure = true.
Result<void> check_key(const wire::StageSpec& stage, const NodeFacts& facts) {
  if (facts.key.empty()) {
    if (stage.key.empty()) return {};
    return fail(ErrorCode::kMismatch,
                fmt::format("node {} links without encryption (insecure = true), but the route has "
                            "a key for node {}: write insecure on every node and in the cluster "
                            "file, or nowhere",
                            facts.name, stage.node));
  }
  if (stage.key.empty()) {
    return fail(ErrorCode::kMismatch,
                fmt::format("the route has no key for node {}: write what `ds4ctl keys show` "
                            "prints there into the cluster file, and assign again",
                            stage.node));
  }
  auto key = keys::parse_public_key(stage.key);
  if (!key) return fail(std::move(key).error(), fmt::format("node {}", stage.node));
  if (key->role != keys::KeyRole::kNode) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("node {} has an operator's key in the route: its own begins with node:",
                            stage.node));
  }
  if (stage.node == facts.name && stage.key != facts.key) {
    return fail(ErrorCode::kMismatch,
                fmt::format("the route has another key for node {} than its own {}: correct the "
                            "cluster file, and assign again",
                            facts.name, facts.key));
  }
  return {};
}

Result<void> check_distinct(const std::vector<wire::StageSpec>& route, const NodeFacts& facts) {
  std::set<std::string_view> names;
  std::set<std::string_view> stage_keys;
  std::set<std::string_view> addresses;
  for (const auto& stage : route) {
    if (stage.node.empty()) {
      return fail(ErrorCode::kInvalidArgument, "a stage of the route has no node name");
    }
    if (!names.insert(stage.node).second) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("node {} is in the route twice: give it one range", stage.node));
    }
    if (auto ok = check_address(stage.address); !ok) {
      return fail(std::move(ok).error(), fmt::format("node {}", stage.node));
    }
    if (!addresses.insert(stage.address).second) {
      return fail(
          ErrorCode::kInvalidArgument,
          fmt::format("node {} has the address {} of another node", stage.node, stage.address));
    }
    DS4_TRY(check_key(stage, facts));
    if (!stage.key.empty() && !stage_keys.insert(stage.key).second) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("node {} has the key of another node", stage.node));
    }
  }
  return {};
}

/// From layer 0 to the output head, each stage beginning where the one before it ended.
Result<void> check_contiguous(const std::vector<wire::StageSpec>& route, std::uint32_t blocks) {
  std::uint32_t next = 0;
  std::string before;
  for (std::size_t i = 0; i < route.size(); ++i) {
    const auto& stage = route[i];
    auto range = LayerRange::parse(stage.layers, blocks);
    if (!range) return fail(std::move(range).error(), fmt::format("node {}", stage.node));
    if (range->first > next) {
      return fail(
          ErrorCode::kInvalidArgument,
          i == 0 ? fmt::format("no node holds layers 0:{}: the first stage, node {}, begins "
                               "at layer {}",
                               range->first - 1, stage.node, range->first)
                 : fmt::format("no node holds layers {}:{}: node {} ends at {} and node {} "
                               "begins at {}",
                               next, range->first - 1, before, next - 1, stage.node, range->first));
    }
    if (range->first < next) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("layer {} is held twice: node {} ends at layer {} and node {} begins "
                              "at {}",
                              range->first, before, next - 1, stage.node, range->first));
    }
    if (range->output && i + 1 < route.size()) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("node {} holds the output head, but node {} comes after it",
                              stage.node, route[i + 1].node));
    }
    next = range->last + 1;
    before = stage.node;
    if (i + 1 == route.size() && !range->output) {
      return fail(
          ErrorCode::kInvalidArgument,
          fmt::format("no node holds the output head: node {} must end with :output, not {}",
                      stage.node, stage.layers));
    }
  }
  return {};
}

Result<void> check_fingerprint(std::string_view wanted, const NodeFacts& facts) {
  if (wanted == facts.fingerprint) return {};
  return fail(
      ErrorCode::kMismatch,
      fmt::format("node {} has another model file: {} has fingerprint {}, the route was made "
                  "for {}; put the same file on every node",
                  facts.name, facts.model, facts.fingerprint, wanted));
}

}  // namespace

Result<void> check_address(std::string_view address) {
  const auto bad = [&](std::string_view why) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("address \"{}\" {}; write tcp://host:port", address, why));
  };
  constexpr std::string_view kScheme = "tcp://";
  if (!address.starts_with(kScheme)) return bad("is not a tcp:// address");
  const auto rest = address.substr(kScheme.size());
  const auto colon = rest.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return bad("names no host and port");
  for (const char c : rest) {
    if (c == ';' || c == '/' || c == '*' || c <= ' ') return bad("has a character no address has");
  }
  const auto text = rest.substr(colon + 1);
  std::uint32_t port = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (code != std::errc() || end != text.data() + text.size() || port == 0 || port > 65535) {
    return bad("has no port between 1 and 65535");
  }
  return {};
}

Result<Assignment> check_prepare(const wire::PrepareRequest& request, const NodeFacts& facts) {
  if (request.you != facts.name) {
    return fail(
        ErrorCode::kMismatch,
        fmt::format("this agent is node {}, not {}: correct the cluster file or the name in "
                    "ds4d.toml",
                    facts.name, request.you));
  }
  if (request.epoch == 0) return fail(ErrorCode::kInvalidArgument, "epochs count from 1");
  if (request.route.empty()) return fail(ErrorCode::kInvalidArgument, "the route has no stages");
  DS4_ASSIGN(const std::uint32_t index, find_stage(request.route, facts.name));
  if (!request.fingerprint.empty()) DS4_TRY(check_fingerprint(request.fingerprint, facts));
  DS4_TRY(check_distinct(request.route, facts));
  DS4_TRY(check_contiguous(request.route, facts.block_count));
  return Assignment{request.epoch, facts.fingerprint, request.route, index};
}

Result<void> check_restored(const Assignment& assignment, const NodeFacts& facts) {
  wire::PrepareRequest request{assignment.epoch, assignment.fingerprint, assignment.route,
                               assignment.own().node};
  DS4_TRY(check_prepare(request, facts));
  return {};
}

Ledger standalone_ledger(const NodeFacts& facts) {
  // Nobody ever connects to the only stage of a route, so any address will do.
  const wire::StageSpec stage{facts.name, "tcp://localhost:1", "0:output", facts.key};
  return {1, Assignment{1, facts.fingerprint, {stage}, 0}};
}

LayerRange range_of(const Assignment& assignment, std::uint32_t block_count) {
  return LayerRange::parse(assignment.own().layers, block_count).value();
}

}  // namespace ds4::agent
