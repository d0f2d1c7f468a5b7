#include "agent/keys/trust_list.h"

#include <fmt/format.h>

#include <algorithm>

namespace ds4::keys {
namespace {

constexpr std::string_view kTrusted = "trusted";
constexpr std::string_view kRevoked = "revoked";

Result<void> check_owner(std::string_view name) {
  if (name.size() <= kMaxOwnerBytes && is_printable(name)) return {};
  return fail(
      ErrorCode::kInvalidArgument,
      fmt::format("a key's name has 1 to {} bytes and no control characters", kMaxOwnerBytes));
}

/// The text before the first space, taken off.
std::string_view take_word(std::string_view& line) {
  const auto space = line.find(' ');
  const auto word = line.substr(0, space);
  line.remove_prefix(space == std::string_view::npos ? line.size() : space + 1);
  return word;
}

Result<TrustEntry> parse_entry(std::string_view line) {
  TrustEntry entry;
  const auto verdict = take_word(line);
  if (verdict != kTrusted && verdict != kRevoked) {
    return fail(ErrorCode::kCorrupt, "a line begins with trusted, revoked or #");
  }
  entry.revoked = verdict == kRevoked;
  DS4_ASSIGN(entry.key, parse_public_key(take_word(line)));
  DS4_TRY(check_owner(line));
  entry.name = line;
  if (!entry.revoked && entry.key.role != KeyRole::kOperator) {
    return fail(ErrorCode::kCorrupt, "only operators' keys can be trusted");
  }
  return entry;
}

}  // namespace

bool is_printable(std::string_view text) {
  return !text.empty() && std::none_of(text.begin(), text.end(),
                                       [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

const TrustEntry* TrustList::find(const KeyBytes& key) const {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const TrustEntry& entry) { return entry.key.bytes == key; });
  return found == entries_.end() ? nullptr : &*found;
}

Result<void> TrustList::put(TrustEntry entry) {
  DS4_TRY(check_owner(entry.name));
  std::erase_if(entries_, [&](const auto& old) { return old.key.bytes == entry.key.bytes; });
  if (entries_.size() >= kMaxTrustEntries) {
    return fail(ErrorCode::kResourceExhausted,
                fmt::format("the trust list has {} entries, the most there can be: remove some "
                            "from its file and restart ds4d",
                            entries_.size()));
  }
  entries_.push_back(std::move(entry));
  return {};
}

Result<void> TrustList::trust(const std::string& name, const PublicKey& key) {
  if (key.role == KeyRole::kOperator) return put({key, name, false});
  if (!is_revoked(key.bytes)) {
    return fail(ErrorCode::kInvalidArgument,
                "this is a node's key, which needs no trust of its own: write it into the cluster "
                "file, and `ds4ctl assign` tells it to every node of the route");
  }
  std::erase_if(entries_, [&](const auto& entry) { return entry.key.bytes == key.bytes; });
  return {};
}

Result<void> TrustList::revoke(const std::string& name, const PublicKey& key) {
  return put({key, name, true});
}

bool TrustList::is_revoked(const KeyBytes& key) const {
  const TrustEntry* entry = find(key);
  return entry != nullptr && entry->revoked;
}

bool TrustList::is_trusted(const KeyBytes& key) const {
  const TrustEntry* entry = find(key);
  return entry != nullptr && !entry->revoked;
}

std::string encode_trust(const TrustList& list) {
  std::string text = "# Written by ds4d; change it with `ds4ctl keys trust` and `revoke`.\n";
  for (const TrustEntry& entry : list.entries()) {
    text += fmt::format("{} {} {}\n", entry.revoked ? kRevoked : kTrusted, to_text(entry.key),
                        entry.name);
  }
  return text;
}

Result<TrustList> parse_trust(std::string_view text) {
  TrustList list;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const auto end = text.find('\n');
    const auto line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.empty() || line.front() == '#') continue;
    auto entry = parse_entry(line);
    if (!entry)
      return fail(ErrorCode::kCorrupt, fmt::format("{}: {}", number, entry.error().message));
    if (list.find(entry->key.bytes) != nullptr) {
      return fail(ErrorCode::kCorrupt, fmt::format("{}: this key has a line already", number));
    }
    if (auto ok = list.put(*std::move(entry)); !ok) {
      return fail(ErrorCode::kCorrupt, fmt::format("{}: {}", number, ok.error().message));
    }
  }
  return list;
}

bool Gate::may_command(const KeyBytes& key) const {
  if (list_.is_revoked(key)) return false;
  return key == own_operator_.bytes || list_.is_trusted(key);
}

bool Gate::is_peer(const KeyBytes& key) const {
  return std::find(peers_.begin(), peers_.end(), key) != peers_.end() && !list_.is_revoked(key);
}

bool Gate::is_prober(const KeyBytes& key) const {
  return std::find(probers_.begin(), probers_.end(), key) != probers_.end() &&
         !list_.is_revoked(key);
}

}  // namespace ds4::keys
