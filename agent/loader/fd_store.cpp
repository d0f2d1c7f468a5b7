#include "agent/loader/fd_store.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include <cstdlib>
#include <cstring>

#include "agent/log/log.h"

namespace ds4::agent {
namespace {

constexpr std::string_view kPrefix = "ds4.";

std::uint64_t memory_bytes(int fd) {
  struct stat info = {};
  return ::fstat(fd, &info) == 0 ? static_cast<std::uint64_t>(info.st_blocks) * 512 : 0;
}

}  // namespace

FdStore::FdStore() : available_(std::getenv("NOTIFY_SOCKET") != nullptr) {
  char** names = nullptr;
  const int count = sd_listen_fds_with_names(0, &names);
  for (int i = 0; i < count; ++i) {
    const std::string name = names[i];
    std::free(names[i]);
    if (!name.starts_with(kPrefix)) continue;
    stored_.insert(name);
    waiting_[name] = UniqueFd(SD_LISTEN_FDS_START + i);
  }
  std::free(names);
}

void FdStore::keep(const std::string& name, int fd) {
  const std::lock_guard lock(mutex_);
  if (!available_ || !stored_.insert(name).second) return;
  // Not polled: memory never hangs up.
  const std::string text = fmt::format("FDSTORE=1\nFDNAME={}\nFDPOLL=0", name);
  const int sent = sd_pid_notify_with_fds(0, 0, text.c_str(), &fd, 1);
  if (sent > 0) return;
  stored_.erase(name);
  log(LogLevel::kWarning, "{} is not kept for the next start: {}", name, std::strerror(-sent));
}

void FdStore::forget(const std::string& name) {
  const std::lock_guard lock(mutex_);
  waiting_.erase(name);
  if (leaving_ || stored_.erase(name) == 0) return;
  sd_notify(0, fmt::format("FDSTOREREMOVE=1\nFDNAME={}", name).c_str());
}

UniqueFd FdStore::take(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto found = waiting_.find(name);
  if (found == waiting_.end()) return {};
  UniqueFd fd = std::move(found->second);
  waiting_.erase(found);
  return fd;
}

std::vector<std::string> FdStore::waiting() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, fd] : waiting_) names.push_back(name);
  return names;
}

std::uint64_t FdStore::waiting_bytes() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t total = 0;
  for (const auto& [name, fd] : waiting_) total += memory_bytes(fd.get());
  return total;
}

void FdStore::forget_waiting() {
  for (const std::string& name : waiting()) forget(name);
}

void FdStore::leave() {
  const std::lock_guard lock(mutex_);
  leaving_ = true;
}

}  // namespace ds4::agent
