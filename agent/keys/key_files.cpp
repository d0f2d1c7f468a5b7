#include "agent/keys/key_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "engine/base/file_text.h"
#include "engine/base/unique_fd.h"

namespace ds4::keys {
namespace {

constexpr std::size_t kMaxFileBytes = 1U << 20;
constexpr const char* kCardName = "node.pub";
constexpr const char* kTrustName = "trust";

std::string path_of(const std::string& directory, std::string_view name) {
  return fmt::format("{}/{}", directory, name);
}

std::string key_path(const std::string& directory, KeyRole role) {
  return path_of(directory, fmt::format("{}.key", to_string(role)));
}

/// A key that others can read is no secret; refusing it is what makes somebody notice.
Result<void> check_private(int fd, const std::string& path, KeyRole role) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return fail_errno(path);
  if (!S_ISREG(info.st_mode)) {
    return fail(ErrorCode::kPermission, fmt::format("{} is not a file", path));
  }
  const mode_t forbidden = role == KeyRole::kOperator ? 037 : 077;
  if ((info.st_mode & forbidden) == 0) return {};
  return fail(ErrorCode::kPermission,
              fmt::format("{} can be read or changed by others (mode {:04o}): run chmod 600 on it, "
                          "and if that may have happened, delete it to get a new key",
                          path, info.st_mode & 07777));
}

Result<std::string> read_whole(int fd, const std::string& path) {
  DS4_ASSIGN(std::string text, read_text(fd, kMaxFileBytes + 1, path));
  if (text.size() <= kMaxFileBytes) return text;
  return fail(ErrorCode::kCorrupt, fmt::format("{} is too long", path));
}

Result<UniqueFd> open_to_read(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return fail_errno(path);
  return fd;
}

Result<std::string> read_file(const std::string& path) {
  DS4_ASSIGN(const UniqueFd fd, open_to_read(path));
  return read_whole(fd.get(), path);
}

void sync_directory(const std::string& directory) {
  const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd) ::fsync(fd.get());
}

enum class Existing { kReplace, kKeep };

/// Written beside, synced, then put under its name whole.
Result<void> publish(const std::string& directory, const std::string& path, std::string_view text,
                     mode_t mode, Existing existing) {
  std::string beside = path + ".XXXXXX";
  const UniqueFd fd(::mkostemp(beside.data(), O_CLOEXEC));  // 0600
  if (!fd) return fail_errno(fmt::format("create {}", path));
  Result<void> done = write_text(fd.get(), text, path);
  if (done && ::fchmod(fd.get(), mode) != 0) done = fail_errno(fmt::format("chmod {}", path));
  if (done && existing == Existing::kReplace && ::rename(beside.c_str(), path.c_str()) != 0) {
    done = fail_errno(fmt::format("replace {}", path));
  }
  if (done && existing == Existing::kKeep && ::link(beside.c_str(), path.c_str()) != 0 &&
      errno != EEXIST) {  // somebody else was faster: theirs it is
    done = fail_errno(fmt::format("create {}", path));
  }
  ::unlink(beside.c_str());
  if (done) sync_directory(directory);
  return done;
}

}  // namespace

Result<KeyPair> load_key(const std::string& directory, KeyRole role) {
  const std::string path = key_path(directory, role);
  DS4_ASSIGN(const UniqueFd fd, open_to_read(path));
  DS4_TRY(check_private(fd.get(), path, role));
  DS4_ASSIGN(const std::string text, read_whole(fd.get(), path));
  auto pair = parse_secret_text(text, role);
  if (pair) return pair;
  return fail(ErrorCode::kCorrupt,
              fmt::format("{} {}; move it away to get a new key", path, pair.error().message));
}

Result<KeyPair> load_or_make_key(const std::string& directory, KeyRole role) {
  auto existing = load_key(directory, role);
  if (existing || existing.error().code != ErrorCode::kNotFound) return existing;
  DS4_ASSIGN(const KeyPair made, make_key_pair(role));
  DS4_TRY(publish(directory, key_path(directory, role), secret_text(made), 0600, Existing::kKeep));
  return load_key(directory, role);
}

// ---- the card --------------------------------------------------------------------------------

std::string encode_card(const NodeCard& card) {
  return fmt::format("{} {} {}\n", card.key ? to_text(*card.key) : "insecure", card.address,
                     card.name);
}

Result<NodeCard> parse_card(std::string_view text) {
  const auto corrupt = [] {
    return fail(ErrorCode::kCorrupt, "is not one line of key, address and name");
  };
  if (text.empty() || text.back() != '\n' || text.find('\n') + 1 != text.size()) return corrupt();
  text.remove_suffix(1);
  const auto first = text.find(' ');
  if (first == std::string_view::npos) return corrupt();
  const auto second = text.find(' ', first + 1);
  if (second == std::string_view::npos || second + 1 == text.size()) return corrupt();
  NodeCard card;
  const auto key = text.substr(0, first);
  if (key != "insecure") {
    DS4_ASSIGN(card.key, parse_public_key(key));
    if (card.key->role != KeyRole::kNode) return corrupt();
  }
  card.address = text.substr(first + 1, second - first - 1);
  card.name = text.substr(second + 1);
  if (card.address.empty() || !is_printable(card.address) || !is_printable(card.name)) {
    return corrupt();
  }
  return card;
}

Result<NodeCard> load_card(const std::string& directory) {
  const std::string path = path_of(directory, kCardName);
  DS4_ASSIGN(const std::string text, read_file(path));
  auto card = parse_card(text);
  if (card) return card;
  return fail(ErrorCode::kCorrupt,
              fmt::format("{} {}: restart ds4d, which writes it", path, card.error().message));
}

Result<void> save_card(const std::string& directory, const NodeCard& card) {
  return publish(directory, path_of(directory, kCardName), encode_card(card), 0644,
                 Existing::kReplace);
}

// ---- trust -----------------------------------------------------------------------------------

Result<TrustList> load_trust(const std::string& directory) {
  const std::string path = path_of(directory, kTrustName);
  const auto text = read_file(path);
  if (!text && text.error().code == ErrorCode::kNotFound) return TrustList{};
  if (!text) return tl::unexpected<Error>(text.error());
  auto list = parse_trust(*text);
  if (list) return list;
  return fail(ErrorCode::kCorrupt,
              fmt::format("{}:{}; correct the line, or move the file away to trust nobody but this "
                          "machine's operator",
                          path, list.error().message));
}

Result<void> save_trust(const std::string& directory, const TrustList& list) {
  return publish(directory, path_of(directory, kTrustName), encode_trust(list), 0600,
                 Existing::kReplace);
}

}  // namespace ds4::keys
