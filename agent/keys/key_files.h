#pragma once
// The key files of one machine, all in the agent's state directory:
//
//   node.key      the agent's secret, 0600
//   operator.key  the secret of this machine's ds4ctl, 0600: who can read it may command this agent
//                 (an administrator may give it to a group, 0640; never to everybody)
//   node.pub      name, public key and address of the agent, for everybody: how a ds4ctl without a
//                 cluster file finds the agent of its machine
//   trust         whom this agent trusts besides, and whom no longer: trust_list.h
//
// Thread rule: none of their own; the agent holds the directory's lock while it writes.
#include <optional>
#include <string>
#include <string_view>

#include "agent/keys/key.h"
#include "agent/keys/trust_list.h"
#include "engine/base/result.h"

namespace ds4::keys {

/// Errors: kNotFound; kPermission if others may read the file, or this user may not; kCorrupt. Each
/// names the file and the way out.
Result<KeyPair> load_key(const std::string& directory, KeyRole role);
/// The same, making the key first if there is none: complete and synced when it appears under its
/// name, and never replacing another.
Result<KeyPair> load_or_make_key(const std::string& directory, KeyRole role);

/// What node.pub says.
struct NodeCard {
  std::string name;
  std::optional<PublicKey> key;  // none: the agent runs with insecure = true
  std::string address;           // where it listens
  bool operator==(const NodeCard&) const = default;
};

std::string encode_card(const NodeCard& card);
/// Errors: kCorrupt.
Result<NodeCard> parse_card(std::string_view text);
Result<NodeCard> load_card(const std::string& directory);
Result<void> save_card(const std::string& directory, const NodeCard& card);

/// An empty list if there is no file. A damaged one is an error, never an empty list: it may hold
/// revocations.
Result<TrustList> load_trust(const std::string& directory);
Result<void> save_trust(const std::string& directory, const TrustList& list);

}  // namespace ds4::keys
