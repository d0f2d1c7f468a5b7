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
TEST(SignalsDeathTest, TheFirstSignalIsSomethingToPoll) {
  EXPECT_EXIT(
      {
        auto signals = Signals::block();
        const bool quiet = !readable(signals->fd()) && !signals->take();
        std::raise(SIGTERM);
        std::_Exit(quiet && readable(signals->fd()) && signals->take() == Wish::kStop ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(SignalsDeathTest, TheSecondSignalEndsTheProcessAtOnce) {
  EXPECT_EXIT(
      {
        auto signals = Signals::block();
        std::raise(SIGINT);
        signals->take();
        std::raise(SIGTERM);
      },
      ::testing::KilledBySignal(SIGTERM), "");
}

TEST(SignalsDeathTest, AHangupAsksForTheConfigurationAndLeavesTheStopAsItWas) {
  EXPECT_EXIT(
      {
        auto signals = Signals::block();
        std::raise(SIGHUP);
        const bool reload = signals->take() == Wish::kReload;
        std::raise(SIGTERM);  // still something to poll
        std::_Exit(reload && signals->take() == Wish::kStop && !signals->take() ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace ds4::agent
