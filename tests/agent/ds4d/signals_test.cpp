#include "agent/ds4d/signals.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <csignal>

namespace ds4::agent {
namespace {

bool readable(int fd) {
  pollfd poll_fd{fd, POLLIN, 0};
  return ::poll(&poll_fd, 1, 0) == 1;
}

// In processes of their own: the signals' dispositions are the process's.
TEST(StopSignalsDeathTest, TheFirstSignalIsSomethingToPoll) {
  EXPECT_EXIT(
      {
        auto signals = StopSignals::block();
        const bool quiet = !readable(signals->fd()) && !signals->take();
        std::raise(SIGTERM);
        std::_Exit(quiet && readable(signals->fd()) && signals->take() ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(StopSignalsDeathTest, TheSecondSignalEndsTheProcessAtOnce) {
  EXPECT_EXIT(
      {
        auto signals = StopSignals::block();
        std::raise(SIGINT);
        signals->take();
        std::raise(SIGTERM);
      },
      ::testing::KilledBySignal(SIGTERM), "");
}

}  // namespace
}  // namespace ds4::agent
