// The agent's keys, and whom it trusts.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "agent/ds4d/agent.h"
#include "agent/keys/key_files.h"
#include "agent/log/log.h"

namespace ds4::agent {
namespace {

/// The keys of a route that passed check_prepare(), or of one that was kept and may not pass.
std::vector<keys::KeyBytes> keys_of(const Assignment* assignment) {
  std::vector<keys::KeyBytes> bytes;
  if (assignment == nullptr) return bytes;
  for (const wire::StageSpec& stage : assignment->route) {
    if (const auto key = keys::parse_public_key(stage.key)) bytes.push_back(key->bytes);
  }
  return bytes;
}

}  // namespace

Result<void> Agent::open_keys() {
  if (config_.insecure) return {};
  DS4_ASSIGN(key_, keys::load_or_make_key(config_.state_dir, keys::KeyRole::kNode));
  DS4_ASSIGN(const keys::KeyPair own_operator,
             keys::load_or_make_key(config_.state_dir, keys::KeyRole::kOperator));
  operator_key_ = own_operator.public_key;
  DS4_ASSIGN(keys::TrustList list, keys::load_trust(config_.state_dir));
  gate_ = keys::Gate(operator_key_, std::move(list));
  facts_.key = keys::to_text(key_->public_key);
  return {};
}

void Agent::refresh_peers() {
  const Assignment* committed = machine_->committed();
  const Assignment* preparing = machine_->preparing();
  const std::pair now{committed != nullptr ? committed->epoch : 0,
                      preparing != nullptr ? preparing->epoch : 0};
  if (now == peers_of_) return;
  peers_of_ = now;
  std::vector<keys::KeyBytes> peers = keys_of(committed);
  for (const keys::KeyBytes& key : keys_of(preparing)) peers.push_back(key);
  gate_.set_peers(std::move(peers));
}

Result<void> Agent::check_not_revoked(const Assignment& assignment) const {
  for (const wire::StageSpec& stage : assignment.route) {
    const auto key = keys::parse_public_key(stage.key);
    if (!key || !gate_.list().is_revoked(key->bytes)) continue;
    return fail(ErrorCode::kPermission,
                fmt::format("the key of node {} was revoked on node {}: give that node a new key "
                            "(delete its node.key and restart it), or take the revocation back "
                            "with `ds4ctl keys trust {} {}`",
                            stage.node, facts_.name, stage.node, stage.key));
  }
  return {};
}

std::vector<wire::KnownKey> Agent::known_keys() const {
  std::vector<wire::KnownKey> known;
  const auto add = [&](const std::string& name, const std::string& key, bool revoked) {
    const auto same = [&](const wire::KnownKey& other) { return other.key == key; };
    if (key.empty() || std::any_of(known.begin(), known.end(), same)) return;
    known.push_back({name, key, revoked});
  };
  for (const keys::TrustEntry& entry : gate_.list().entries()) {
    add(entry.name, keys::to_text(entry.key), entry.revoked);
  }
  if (key_) add(facts_.name, keys::to_text(operator_key_), false);
  for (const Assignment* assignment : {machine_->committed(), machine_->preparing()}) {
    if (assignment == nullptr) continue;
    for (const wire::StageSpec& stage : assignment->route) add(stage.node, stage.key, false);
  }
  return known;
}

Result<void> Agent::trust(const wire::TrustRequest& request) {
  DS4_ASSIGN(const keys::PublicKey key, keys::parse_public_key(request.key));
  keys::TrustList next = gate_.list();
  DS4_TRY(next.trust(request.name, key));
  DS4_TRY(change_trust(std::move(next)));
  log(LogLevel::kNotice, "trusts {} ({}) from now on", request.name, request.key);
  return {};
}

Result<void> Agent::revoke(const wire::RevokeRequest& request) {
  keys::TrustList next = gate_.list();
  bool found = false;
  for (const wire::KnownKey& known : known_keys()) {
    if (known.name != request.who && known.key != request.who) continue;
    DS4_ASSIGN(const keys::PublicKey key, keys::parse_public_key(known.key));
    // A node's name is its operator's too; only the operators that were named go by it.
    if (known.name == request.who && key == operator_key_) continue;
    if (key_ && key == key_->public_key) continue;
    DS4_TRY(next.revoke(known.name, key));
    found = true;
  }
  if (!found) {
    auto key = keys::parse_public_key(request.who);
    if (!key) {
      return fail(ErrorCode::kNotFound,
                  fmt::format("node {} knows no key of the name {}: `ds4ctl keys list` shows all "
                              "that it knows; a whole key can be revoked too",
                              facts_.name, request.who));
    }
    DS4_TRY(next.revoke("unknown", *key));
  }
  DS4_TRY(change_trust(std::move(next)));
  log(LogLevel::kNotice, "revoked {}: nothing is heard from it any more", request.who);
  return {};
}

Result<void> Agent::change_trust(keys::TrustList next) {
  if (!key_) {
    return fail(ErrorCode::kUnsupported,
                "this agent runs with insecure = true: it knows no keys and obeys everybody");
  }
  if (next == gate_.list()) return {};
  if (auto saved = keys::save_trust(config_.state_dir, next); !saved) {
    return fail(std::move(saved).error(), "nothing was changed, because it could not be kept");
  }
  const keys::Gate before = gate_;
  gate_.set_list(std::move(next));
  const Assignment* route = machine_->committed();
  if (route == nullptr) return {};
  const std::vector<keys::KeyBytes> peers = keys_of(route);
  const bool concerns_route = std::any_of(peers.begin(), peers.end(), [&](const auto& key) {
    return before.is_peer(key) != gate_.is_peer(key);
  });
  if (!concerns_route) return {};
  // Links to the revoked go, links to the forgiven come back.
  DS4_TRY(links_->connect(route->route, route->index));
  for (std::uint32_t stage = 0; stage < route->route.size(); ++stage) {
    const auto key = keys::parse_public_key(route->route[stage].key);
    if (key && gate_.is_peer(key->bytes)) continue;
    act(machine_->on_unreachable(stage, std::chrono::steady_clock::now()));
  }
  publish();
  return {};
}

}  // namespace ds4::agent
