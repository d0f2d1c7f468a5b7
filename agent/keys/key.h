#pragma once
// Keys: who somebody is, proven and not claimed.
//
// There are two kinds. Every agent has a node key, by which other agents know it, and every machine
// has an operator key, with which its ds4ctl commands agents. A public key is a text that says
// which kind it is ("node:4f0c...", "operator:77a1..."), so that it can be sent to somebody, pasted
// into a command or a file, and never be taken for the other kind: whoever lets a machine join a
// route does not let it give orders.
//
// The keys are Curve25519 keys as ZeroMQ's CURVE uses them; texts are hexadecimal because its own
// Z85 is full of characters that shells interpret.
#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace ds4::keys {

enum class KeyRole : std::uint8_t { kNode, kOperator };

using KeyBytes = std::array<std::uint8_t, 32>;

struct PublicKey {
  KeyRole role = KeyRole::kNode;
  KeyBytes bytes{};
  auto operator<=>(const PublicKey&) const = default;
};

struct KeyPair {
  PublicKey public_key;
  KeyBytes secret{};
};

/// "node" or "operator".
std::string_view to_string(KeyRole role);

/// "node:" or "operator:" and 64 lower-case hexadecimal digits.
std::string to_text(const PublicKey& key);
/// Errors: kInvalidArgument with the form that is accepted. Never repeats the text: it might be a
/// secret that somebody pasted by mistake.
Result<PublicKey> parse_public_key(std::string_view text);

/// The one line of a key file: "node-secret:" or "operator-secret:" and 64 digits.
std::string secret_text(const KeyPair& pair);
/// Errors: kCorrupt. Surrounding white space is allowed.
Result<KeyPair> parse_secret_text(std::string_view text, KeyRole role);

/// Errors: kUnsupported if the ZeroMQ library was built without CURVE.
Result<KeyPair> make_key_pair(KeyRole role);

}  // namespace ds4::keys
