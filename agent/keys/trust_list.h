#pragma once
// Whom an agent trusts. Pure; the file is key_files.h's business.
//
// Three kinds of people reach an agent. Operators may command it: the one of its own machine, and
// those that were trusted by name (`ds4ctl keys trust`). Nodes may send frames of the route that
// they and this agent are in; they need no entry here, because an operator named them, with their
// keys, when he assigned the route. Everybody else is a stranger, and so is, from that moment on,
// whoever was revoked: a revocation outlives the route, so assigning the same key again is refused
// until it is trusted again.
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "agent/keys/key.h"
#include "engine/base/result.h"

namespace ds4::keys {

inline constexpr std::size_t kMaxTrustEntries = 4096;
inline constexpr std::size_t kMaxOwnerBytes = 128;  // of a name

struct TrustEntry {
  PublicKey key;
  std::string name;  // whose it is; for people
  bool revoked = false;
  bool operator==(const TrustEntry&) const = default;
};

class TrustList {
 public:
  /// An operator's key becomes trusted; a revoked node's key is only forgiven. Errors:
  /// kInvalidArgument (a malformed name; a node's key that was not revoked, with the sentence that
  /// tells where it belongs), kResourceExhausted.
  Result<void> trust(const std::string& name, const PublicKey& key);
  /// Also of keys never heard of. Errors: as above.
  Result<void> revoke(const std::string& name, const PublicKey& key);

  bool is_revoked(const KeyBytes& key) const;
  /// Of an operator, trusted by name, and not revoked.
  bool is_trusted(const KeyBytes& key) const;
  const std::vector<TrustEntry>& entries() const { return entries_; }
  bool operator==(const TrustList&) const = default;

 private:
  friend Result<TrustList> parse_trust(std::string_view text);
  const TrustEntry* find(const KeyBytes& key) const;
  Result<void> put(TrustEntry entry);

  std::vector<TrustEntry> entries_;  // one a key
};

/// One line an entry, "trusted KEY NAME" or "revoked KEY NAME"; lines that begin with # are notes.
std::string encode_trust(const TrustList& list);
/// Errors: kCorrupt, "3: what is wrong".
Result<TrustList> parse_trust(std::string_view text);

/// Not empty, and without control characters.
bool is_printable(std::string_view text);

/// What an agent asks of every connection and of every message: the trust list, the operator of its
/// own machine, and the nodes of its routes, as of this moment.
class Gate {
 public:
  Gate() = default;
  Gate(const PublicKey& own_operator, TrustList list)
      : own_operator_(own_operator), list_(std::move(list)) {}

  const TrustList& list() const { return list_; }
  void set_list(TrustList list) { list_ = std::move(list); }
  /// Of the routes that serve and are being prepared.
  void set_peers(std::vector<KeyBytes> peers) { peers_ = std::move(peers); }
  /// Who may measure the way to this agent, for now, and do nothing else: all of them, whoever
  /// named them.
  void set_probers(std::vector<KeyBytes> probers) { probers_ = std::move(probers); }

  bool may_command(const KeyBytes& key) const;
  bool is_peer(const KeyBytes& key) const;
  bool is_prober(const KeyBytes& key) const;
  bool admits(const KeyBytes& key) const {
    return may_command(key) || is_peer(key) || is_prober(key);
  }

 private:
  PublicKey own_operator_;
  TrustList list_;
  std::vector<KeyBytes> peers_;
  std::vector<KeyBytes> probers_;
};

}  // namespace ds4::keys
