#include "agent/state/ledger_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <vector>

#include "engine/base/file_text.h"

namespace ds4::agent {
namespace {

constexpr const char* kFileName = "route.json";
constexpr const char* kNewName = "route.json.new";
constexpr const char* kLockName = "lock";
constexpr std::size_t kMaxLedgerBytes = 1U << 20;

Result<void> write_synced(int directory, std::string_view text, const std::string& path) {
  UniqueFd fd(
      ::openat(directory, kNewName, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return fail_errno(fmt::format("create {}", path));
  return write_text(fd.get(), text, path);
}

}  // namespace

Result<LedgerFile> LedgerFile::open(const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return fail(ErrorCode::kIo,
                fmt::format("make the state directory {}: {}", directory, error.message()));
  }
  LedgerFile file;
  file.directory_ = directory;
  file.directory_fd_.reset(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!file.directory_fd_) return fail_errno(fmt::format("open the state directory {}", directory));
  file.lock_fd_.reset(::openat(file.directory_fd_.get(), kLockName,
                               O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.lock_fd_) return fail_errno(fmt::format("create {}/{}", directory, kLockName));
  if (::flock(file.lock_fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail_errno(fmt::format("lock {}/{}", directory, kLockName));
    return fail(ErrorCode::kUnavailable,
                fmt::format("another ds4d uses the state directory {}: give this one its own "
                            "(state_dir in ds4d.toml, or --state-dir)",
                            directory));
  }
  return file;
}

Result<Ledger> LedgerFile::load() const {
  const std::string path = fmt::format("{}/{}", directory_, kFileName);
  UniqueFd fd(::openat(directory_fd_.get(), kFileName, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd && errno == ENOENT) return Ledger{};
  if (!fd) return fail_errno(fmt::format("open {}", path));
  DS4_ASSIGN(const std::string text, read_text(fd.get(), kMaxLedgerBytes + 1, path));
  if (text.size() > kMaxLedgerBytes) {
    return fail(ErrorCode::kCorrupt, fmt::format("{} is larger than any route is", path));
  }
  auto ledger = decode_ledger(text);
  if (!ledger) {
    return fail(ErrorCode::kCorrupt,
                fmt::format("{} is damaged ({}): move it away to start without an assignment", path,
                            ledger.error().message));
  }
  return ledger;
}

Result<void> LedgerFile::save(const Ledger& ledger) const {
  const std::string path = fmt::format("{}/{}", directory_, kFileName);
  const int directory = directory_fd_.get();
  auto written = write_synced(directory, encode_ledger(ledger), path);
  if (!written) {
    ::unlinkat(directory, kNewName, 0);
    return written;
  }
  if (::renameat(directory, kNewName, directory, kFileName) != 0) {
    return fail_errno(fmt::format("replace {}", path));
  }
  if (::fsync(directory) != 0) return fail_errno(fmt::format("sync {}", directory_));
  return {};
}

}  // namespace ds4::agent
