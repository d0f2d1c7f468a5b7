// `ds4ctl top` on a terminal of its own, and `ds4ctl status --route`, against an agent that lives
// in the test.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "engine/base/unique_fd.h"
#include "tests/ctl/route_fixture.h"
#include "tests/ctl/router_agent.h"
#include "tests/ctl/subprocess.h"

namespace ds4::ctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kEnter = "\x1b[?1049h";
constexpr const char* kLeave = "\x1b[?1049l";
constexpr const char* kShowCursor = "\x1b[?25h";

/// Alpha, serving the whole model by itself, with ten more batches at every look.
class BusyAgent {
 public:
  std::string address() const { return agent_.address; }

 private:
  Messages answer(const wire::Request& request) {
    wire::NodeStatus status = *testing_nodes::route_at_first()[0].status;
    status.route.resize(1);
    status.links.clear();
    const std::uint64_t look = ++looks_;
    status.stage.clock_us += look * 1'000'000;
    status.stage.batches = 10 * look;
    status.stage.tokens = 10 * look;
    status.stage.compute_us = 500'000 * look;
    wire::Reply reply;
    reply.id = request.id;
    reply.status = status;
    return {message_of(reply)};
  }

  std::atomic<std::uint64_t> looks_{0};
  RouterAgent agent_{[this](const wire::Request& request) { return answer(request); }};
};

class Top : public ::testing::Test {
 protected:
  std::vector<std::string> arguments(std::vector<std::string> more) const {
    const std::string cluster =
        temp_file("top.toml", "insecure = true\n[nodes]\nalpha = \"" + agent->address() + "\"\n");
    more.insert(more.begin(), {"--cluster", cluster, "--timeout", "0.5"});
    return more;
  }
  std::unique_ptr<BusyAgent> agent = std::make_unique<BusyAgent>();
};

class TopOnATerminal : public Top {
 protected:
  void SetUp() override {
    winsize size{};
    size.ws_col = 150;
    size.ws_row = 30;
    int master = -1;
    int slave = -1;
    ASSERT_EQ(::openpty(&master, &slave, nullptr, nullptr, &size), 0);
    master_.reset(master);
    slave_.reset(slave);
    ASSERT_EQ(::tcgetattr(slave, &before_), 0);
    start(arguments({"top"}));
    ASSERT_TRUE(shows(kEnter));
  }
  void TearDown() override {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  void start(std::vector<std::string> words) {
    words.insert(words.begin(), DS4_BINARY_DIR "/bin/ds4ctl");
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::setsid();
    ::ioctl(slave_.get(), TIOCSCTTY, 0);
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(slave_.get(), fd);
    ::setenv("TERM", "xterm", 1);
    ::unsetenv("NO_COLOR");
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  /// Reads what the program draws until all of it holds; false if it ends before.
  template <typename Condition>
  bool draws(const Condition& condition) {
    while (!condition(drawn_)) {
      pollfd ready{master_.get(), POLLIN, 0};
      char bytes[4096];
      if (::poll(&ready, 1, 100) <= 0) {
        int status = 0;
        if (pid_ > 0 && ::waitpid(pid_, &status, WNOHANG) == pid_) {
          pid_ = -1;
          exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        }
        if (pid_ < 0) return condition(drawn_);
        continue;
      }
      const ssize_t got = ::read(master_.get(), bytes, sizeof(bytes));
      if (got <= 0) return condition(drawn_);
      drawn_.append(bytes, static_cast<std::size_t>(got));
    }
    return true;
  }
  bool shows(const std::string& text) {
    return draws([&](const std::string& drawn) { return drawn.find(text) != std::string::npos; });
  }
  void press(const std::string& keys) const {
    ASSERT_EQ(::write(master_.get(), keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  /// It ends by itself, with this exit code, and the terminal is as it was.
  void expect_given_back(int exit_code) {
    draws([&](const std::string&) { return exit_code_.has_value(); });
    EXPECT_EQ(exit_code_, exit_code);
    const std::size_t left = drawn_.rfind(kLeave);
    ASSERT_NE(left, std::string::npos);
    EXPECT_EQ(drawn_.find('\n', left), std::string::npos) << "drawn after it left";
    EXPECT_NE(drawn_.find(kShowCursor), std::string::npos);
    termios now{};
    ASSERT_EQ(::tcgetattr(slave_.get(), &now), 0);
    EXPECT_EQ(now.c_lflag, before_.c_lflag);
    EXPECT_EQ(now.c_iflag, before_.c_iflag);
    EXPECT_EQ(now.c_oflag, before_.c_oflag);
    EXPECT_EQ(now.c_cc[VSUSP], before_.c_cc[VSUSP]);
    EXPECT_EQ(now.c_cc[VQUIT], before_.c_cc[VQUIT]);
    EXPECT_EQ(now.c_cc[VMIN], before_.c_cc[VMIN]);
  }
  std::size_t frames() const {
    std::size_t count = 0;
    for (std::size_t at = 0; (at = drawn_.find("\x1b[H", at)) != std::string::npos; ++at) ++count;
    return count;
  }

  UniqueFd master_;
  UniqueFd slave_;
  termios before_{};
  pid_t pid_ = -1;
  std::optional<int> exit_code_;
  std::string drawn_;
};

TEST_F(TopOnATerminal, DrawsAgainAndAgainUntilQ) {
  EXPECT_TRUE(shows("alpha  ready"));
  EXPECT_TRUE(shows("10.0 tokens/s"));
  EXPECT_TRUE(draws([&](const std::string&) { return frames() >= 4; }));
  termios during{};
  ASSERT_EQ(::tcgetattr(slave_.get(), &during), 0);
  EXPECT_EQ(during.c_lflag & ICANON, 0U);
  press("xq");
  expect_given_back(0);
}

TEST_F(TopOnATerminal, CtrlCGivesTheTerminalBack) {
  EXPECT_TRUE(shows("alpha  ready"));
  press("\x03");
  expect_given_back(0);
}

TEST_F(TopOnATerminal, SigtermGivesTheTerminalBack) {
  EXPECT_TRUE(shows("alpha  ready"));
  ::kill(pid_, SIGTERM);
  expect_given_back(0);
}

TEST_F(TopOnATerminal, AnAgentThatGoesIsShownAsGone) {
  EXPECT_TRUE(shows("alpha  ready"));
  agent.reset();
  EXPECT_TRUE(shows("does not answer at"));
  press("q");
  expect_given_back(0);
}

TEST_F(TopOnATerminal, FollowsTheTerminalsSize) {
  EXPECT_TRUE(shows("PREFILL/s"));
  winsize size{};
  size.ws_col = 30;
  size.ws_row = 10;
  ASSERT_EQ(::ioctl(master_.get(), TIOCSWINSZ, &size), 0);
  EXPECT_TRUE(draws([](const std::string& drawn) {
    const std::size_t last = drawn.rfind("\x1b[H");
    const std::size_t end = drawn.find("\x1b[J", last);
    return end != std::string::npos && drawn.find("COMPUTE", last) != std::string::npos &&
           drawn.find("PREFILL/s", last) == std::string::npos;
  }));
  press("q");
  expect_given_back(0);
}

TEST_F(TopOnATerminal, IsResizedWhileTheTerminalTakesNothing) {
  EXPECT_TRUE(shows("alpha  ready"));
  ASSERT_EQ(::tcflow(slave_.get(), TCOOFF), 0);  // as a line that is stuck: its next frame waits
  const std::size_t before = frames();
  winsize size{};
  size.ws_col = 140;
  for (size.ws_row = 20; size.ws_row < 40; ++size.ws_row) {
    ASSERT_EQ(::ioctl(master_.get(), TIOCSWINSZ, &size), 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  ASSERT_EQ(::tcflow(slave_.get(), TCOON), 0);
  EXPECT_TRUE(draws([&](const std::string&) { return frames() >= before + 3; }));
  press("q");
  expect_given_back(0);
}

TEST_F(Top, OnceWritesAFrameForScripts) {
  const Finished finished = run_program("ds4ctl", arguments({"top", "--once"}));
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_THAT(finished.out,
              AllOf(HasSubstr("1 of 1 node ready, epoch 3"), HasSubstr("10.0 tokens/s"),
                    HasSubstr("alpha  ready"), Not(HasSubstr("\x1b"))));
}

TEST_F(Top, WithoutATerminalItSaysWhatToDo) {
  const Finished finished = run_program("ds4ctl", arguments({"top"}));
  EXPECT_EQ(finished.exit_code, 2);
  EXPECT_THAT(finished.err, HasSubstr("`ds4ctl top --once`"));
  EXPECT_EQ(finished.out, "");
}

TEST_F(Top, StatusRouteHasARowForEachHop) {
  const Finished finished = run_program("ds4ctl", arguments({"status", "--route"}));
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_THAT(finished.out, AllOf(HasSubstr("epoch 3: ready, 10.0 tokens/s"),
                                  HasSubstr("alpha  0:2     ready     50 %")));
  const Finished json = run_program("ds4ctl", arguments({"status", "--route", "--json"}));
  EXPECT_EQ(nlohmann::json::parse(json.out).at("hops").at(0).at("node"), "alpha");
}

TEST_F(Top, StatusRouteFailsIfANodeOfTheRouteIsAway) {
  const std::vector<std::string> words = arguments({"status", "--route"});
  agent.reset();
  const Finished finished = run_program("ds4ctl", words);
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.out, HasSubstr("no route"));
}

}  // namespace
}  // namespace ds4::ctl
