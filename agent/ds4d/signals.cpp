#include "agent/ds4d/signals.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>

namespace ds4::agent {
namespace {

sigset_t stop_set() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

Result<Signals> Signals::block() {
  std::signal(SIGPIPE, SIG_IGN);  // a client that hangs up is an error of write(), not our death
  sigset_t set = stop_set();
  sigaddset(&set, SIGHUP);
  if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return fail_errno("block SIGTERM");
  Signals signals;
  signals.fd_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.fd_) return fail_errno("signalfd");
  return signals;
}

std::optional<Wish> Signals::take() {
  signalfd_siginfo info{};
  if (::read(fd_.get(), &info, sizeof(info)) != static_cast<ssize_t>(sizeof(info))) {
    return std::nullopt;
  }
  if (info.ssi_signo == SIGHUP) return Wish::kReload;
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
  const sigset_t set = stop_set();
  ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
  return Wish::kStop;
}

}  // namespace ds4::agent
