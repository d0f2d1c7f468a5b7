#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <string_view>
#include <vector>

#include "agent/log/log.h"
#include "agent/stage/kv_store.h"

namespace ds4::agent {
namespace {

constexpr std::size_t kDigits = 16;

/// As new_name() makes them, with or without an ending behind.
bool is_ours(std::string_view name) {
  if (name.size() < kDigits) return false;
  const std::string_view digits = name.substr(0, kDigits);
  const std::string_view ending = name.substr(kDigits);
  return std::all_of(digits.begin(), digits.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }) &&
         (ending == ".kv" || ending == ".kv.new");
}

}  // namespace

Result<std::shared_ptr<const KvDirectory>> KvDirectory::open(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return fail(ErrorCode::kIo, fmt::format("make the directory {}: {}", path, error.message()));
  }
  std::shared_ptr<KvDirectory> directory(new KvDirectory());
  directory->path_ = path;
  directory->fd_.reset(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory->fd_) return fail_errno("open the directory " + path);
  if (::flock(directory->fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail_errno("lock the directory " + path);
    return fail(ErrorCode::kUnavailable,
                fmt::format("another ds4d keeps caches in {}: give this one its own (kv.directory "
                            "in ds4d.toml)",
                            path));
  }
  directory->remove_leftovers();
  return directory;
}

void KvDirectory::remove_leftovers() const {
  const int copy = ::openat(fd_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* entries = copy < 0 ? nullptr : ::fdopendir(copy);
  if (entries == nullptr) {
    if (copy >= 0) ::close(copy);
    return;
  }
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(entries)) {
    if (is_ours(entry->d_name)) names.emplace_back(entry->d_name);
  }
  ::closedir(entries);
  for (const std::string& name : names) remove(name);
  if (!names.empty()) {
    log(LogLevel::kInfo, "removed {} saved caches of an earlier start from {}", names.size(),
        path_);
  }
}

std::string KvDirectory::new_name() const {
  static std::atomic<std::uint64_t> next{1};
  return fmt::format("{:016x}.kv", next.fetch_add(1, std::memory_order_relaxed));
}

Result<UniqueFd> KvDirectory::create(const std::string& name) const {
  UniqueFd file(::openat(fd_.get(), name.c_str(),
                         O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return fail_errno("create " + path_of(name));
  return file;
}

Result<void> KvDirectory::rename(const std::string& from, const std::string& to) const {
  if (::renameat(fd_.get(), from.c_str(), fd_.get(), to.c_str()) != 0) {
    return fail_errno("rename to " + path_of(to));
  }
  return {};
}

Result<UniqueFd> KvDirectory::read(const std::string& name) const {
  UniqueFd file(::openat(fd_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file) return fail_errno("open " + path_of(name));
  return file;
}

void KvDirectory::remove(const std::string& name) const {
  if (::unlinkat(fd_.get(), name.c_str(), 0) == 0 || errno == ENOENT) return;
  log(LogLevel::kWarning, "{}", fail_errno("remove " + path_of(name)).value().message);
}

}  // namespace ds4::agent
