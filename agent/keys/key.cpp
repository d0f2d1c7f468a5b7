#include "agent/keys/key.h"

#include <fmt/format.h>
#include <zmq.h>

#include <optional>

namespace ds4::keys {
namespace {

constexpr std::size_t kZ85Bytes = 40;  // of a key, without the NUL behind it
using Z85 = std::array<char, kZ85Bytes + 1>;

std::string to_hex(const KeyBytes& bytes) {
  std::string text;
  for (const std::uint8_t byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

std::optional<std::uint8_t> digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<std::uint8_t>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<std::uint8_t>(c - 'a' + 10);
  return std::nullopt;
}

std::optional<KeyBytes> from_hex(std::string_view text) {
  KeyBytes bytes{};
  if (text.size() != 2 * bytes.size()) return std::nullopt;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto high = digit(text[2 * i]);
    const auto low = digit(text[2 * i + 1]);
    if (!high || !low) return std::nullopt;
    bytes[i] = static_cast<std::uint8_t>(*high << 4 | *low);
  }
  return bytes;
}

std::optional<KeyBytes> after(std::string_view text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return std::nullopt;
  return from_hex(text.substr(prefix.size()));
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const auto begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

KeyBytes from_z85(const Z85& text) {
  KeyBytes bytes{};
  zmq_z85_decode(bytes.data(), text.data());
  return bytes;
}

/// The secret determines the public key.
std::optional<KeyBytes> public_of(const KeyBytes& secret) {
  Z85 secret_z85{};
  Z85 public_z85{};
  zmq_z85_encode(secret_z85.data(), secret.data(), secret.size());
  if (zmq_curve_public(public_z85.data(), secret_z85.data()) != 0) return std::nullopt;
  return from_z85(public_z85);
}

}  // namespace

std::string_view to_string(KeyRole role) {
  return role == KeyRole::kNode ? "node" : "operator";
}

std::string to_text(const PublicKey& key) {
  return fmt::format("{}:{}", to_string(key.role), to_hex(key.bytes));
}

Result<PublicKey> parse_public_key(std::string_view text) {
  for (const KeyRole role : {KeyRole::kNode, KeyRole::kOperator}) {
    if (const auto bytes = after(text, fmt::format("{}:", to_string(role)))) {
      return PublicKey{role, *bytes};
    }
  }
  return fail(ErrorCode::kInvalidArgument,
              "a public key is node: or operator: and 64 digits 0-9 a-f, as `ds4ctl keys show` "
              "prints it");
}

std::string secret_text(const KeyPair& pair) {
  return fmt::format("{}-secret:{}\n", to_string(pair.public_key.role), to_hex(pair.secret));
}

Result<KeyPair> parse_secret_text(std::string_view text, KeyRole role) {
  const auto secret = after(trimmed(text), fmt::format("{}-secret:", to_string(role)));
  if (!secret) {
    return fail(ErrorCode::kCorrupt, fmt::format("holds no {} key: its one line is {}-secret: and "
                                                 "64 digits 0-9 a-f",
                                                 to_string(role), to_string(role)));
  }
  const auto bytes = public_of(*secret);
  if (!bytes) return fail(ErrorCode::kCorrupt, "holds a number that is no key");
  return KeyPair{{role, *bytes}, *secret};
}

Result<KeyPair> make_key_pair(KeyRole role) {
  Z85 public_z85{};
  Z85 secret_z85{};
  if (zmq_curve_keypair(public_z85.data(), secret_z85.data()) != 0) {
    return fail(ErrorCode::kUnsupported,
                "this machine's libzmq was built without CURVE: install the distribution's own "
                "(libzmq5), or write insecure = true");
  }
  return KeyPair{{role, from_z85(public_z85)}, from_z85(secret_z85)};
}

}  // namespace ds4::keys
