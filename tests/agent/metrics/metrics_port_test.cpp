#include "agent/metrics/metrics_port.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <vector>

#include "agent/metrics/loopback.h"
#include "engine/base/unique_fd.h"

namespace ds4::agent {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string fixed_text() {
  return "ds4d_ready 1\n";
}

TEST(MetricsAnswer, IsTheTextForAGetOfMetrics) {
  const std::string answer = answer_metrics("GET /metrics HTTP/1.1\r\n\r\n", fixed_text);
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
  EXPECT_THAT(answer, HasSubstr("\r\nContent-Length: 13\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\nds4d_ready 1\n"));
  EXPECT_THAT(answer_metrics("GET /metrics?x=1 HTTP/1.0\r\n\r\n", fixed_text),
              EndsWith("ds4d_ready 1\n"));
  EXPECT_THAT(answer_metrics("HEAD /metrics HTTP/1.1\r\n\r\n", fixed_text), EndsWith("\r\n\r\n"));
}

TEST(MetricsAnswer, NothingElseIsServedNorEvenMade) {
  const auto never = []() -> std::string {
    ADD_FAILURE() << "the figures were gathered";
    return "";
  };
  EXPECT_THAT(answer_metrics("GET / HTTP/1.1\r\n\r\n", never), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(answer_metrics("GET /metricsx HTTP/1.1\r\n\r\n", never), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(answer_metrics("POST /metrics HTTP/1.1\r\n\r\n", never),
              StartsWith("HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\n"));
  for (const char* head : {"\r\n\r\n", "GET\r\n\r\n", "GET /metrics\r\n\r\n",
                           "GET /metrics FTP/1.1\r\n\r\n", "  HTTP/2\r\n\r\n"}) {
    EXPECT_THAT(answer_metrics(head, never), StartsWith("HTTP/1.1 400 ")) << head;
  }
}

class Port : public ::testing::Test {
 protected:
  void open(std::function<std::string()> text = fixed_text) {
    auto made = MetricsPort::listen("127.0.0.1:0", std::move(text));
    ASSERT_TRUE(made) << made.error().message;
    port = std::move(*made);
  }
  UniqueFd dial() const {
    const auto where = parse_loopback(port->address()).value();
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd.get(), where.get(), where.bytes), 0);
    return fd;
  }
  static void say(const UniqueFd& fd, const std::string& text) {
    EXPECT_EQ(::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  /// Serves what is there to be served.
  void serve() const {
    pollfd ready{port->poll_fd(), POLLIN, 0};
    while (::poll(&ready, 1, 50) > 0) port->on_ready();
  }
  /// Whatever comes until the port hangs up.
  std::string hear(const UniqueFd& fd) const {
    std::string heard;
    std::array<char, 65536> bytes;
    while (true) {
      const ssize_t got = ::recv(fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
      if (got > 0) {
        heard.append(bytes.data(), static_cast<std::size_t>(got));
      } else if (got < 0 && errno == EAGAIN) {
        serve();
      } else {
        return heard;
      }
    }
  }
  static bool hung_up(const UniqueFd& fd) {
    char byte = 0;
    return ::recv(fd.get(), &byte, 1, MSG_DONTWAIT) == 0;
  }

  std::unique_ptr<MetricsPort> port;
};

TEST_F(Port, AnswersOneRequestAndHangsUp) {
  open();
  const UniqueFd fd = dial();
  say(fd, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(hear(fd), EndsWith("ds4d_ready 1\n"));
}

TEST_F(Port, ARequestMayComeByteByByte) {
  open();
  const UniqueFd fd = dial();
  for (const char c : std::string("GET /metrics HTTP/1.1\r\n\r\n")) {
    say(fd, {c});
    port->on_ready();
  }
  EXPECT_THAT(hear(fd), EndsWith("ds4d_ready 1\n"));
}

TEST_F(Port, AnAnswerLargerThanTheSocketsBufferArrivesWhole) {
  const std::string large(32U << 20, 'x');
  open([&] { return large; });
  const UniqueFd fd = dial();
  say(fd, "GET /metrics HTTP/1.1\r\n\r\n");
  const std::string heard = hear(fd);
  EXPECT_EQ(heard.size(), heard.find("\r\n\r\n") + 4 + large.size());
}

TEST_F(Port, AnEndlessRequestIsCutOff) {
  open();
  const UniqueFd fd = dial();
  say(fd, "GET /metrics HTTP/1.1\r\nX: " + std::string(2 * kMaxHeadBytes, 'x'));
  EXPECT_THAT(hear(fd), StartsWith("HTTP/1.1 431 "));
}

TEST_F(Port, SlowReadersNeitherBlockNorStay) {
  open();
  std::vector<UniqueFd> slow;
  for (std::size_t i = 0; i < kMaxReaders; ++i) slow.push_back(dial());
  say(slow[0], "GET /met");
  serve();
  const UniqueFd honest = dial();
  say(honest, "GET /metrics HTTP/1.1\r\n\r\n");
  serve();  // all places are taken: it returns at once, and nobody is answered
  char byte = 0;
  EXPECT_LT(::recv(honest.get(), &byte, 1, MSG_DONTWAIT), 0);
  port->on_time(std::chrono::steady_clock::now() + kReaderPatience);
  EXPECT_TRUE(hung_up(slow[0]));
  EXPECT_TRUE(hung_up(slow.back()));
  EXPECT_THAT(hear(honest), EndsWith("ds4d_ready 1\n"));
}

TEST_F(Port, AReaderThatLeavesInTheMiddleIsForgotten) {
  const std::string large(32U << 20, 'x');
  open([&] { return large; });
  for (std::size_t i = 0; i < 2 * kMaxReaders; ++i) {
    const UniqueFd fd = dial();
    if (i % 2 == 0) say(fd, "GET /metrics HTTP/1.1\r\n\r\n");
    serve();
  }
  const UniqueFd fd = dial();
  say(fd, "HEAD /metrics HTTP/1.1\r\n\r\n");
  EXPECT_THAT(hear(fd), StartsWith("HTTP/1.1 200 OK"));
}

/// Allows no descriptor beyond those that are open, while it lives.
class NoMoreDescriptors {
 public:
  NoMoreDescriptors() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const UniqueFd lowest(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    rlimit tight = before_;
    tight.rlim_cur = static_cast<rlim_t>(lowest.get());
    ::setrlimit(RLIMIT_NOFILE, &tight);
  }
  ~NoMoreDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST_F(Port, WithoutDescriptorsTheLoopSleepsAndAcceptsLater) {
  open();
  const UniqueFd fd = dial();
  say(fd, "GET /metrics HTTP/1.1\r\n\r\n");
  pollfd ready{port->poll_fd(), POLLIN, 0};
  ASSERT_EQ(::poll(&ready, 1, -1), 1);
  const auto now = std::chrono::steady_clock::now();
  {
    const NoMoreDescriptors full;
    port->on_ready();
  }
  port->on_time(now);  // the same turn of the main loop
  EXPECT_EQ(::poll(&ready, 1, 0), 0) << "the main loop would spin";
  port->on_time(now + std::chrono::hours(1));
  EXPECT_THAT(hear(fd), EndsWith("ds4d_ready 1\n"));
}

TEST_F(Port, ATakenPortIsNamedWithTheWayOut) {
  open();
  const auto second = MetricsPort::listen(port->address(), fixed_text);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(second.error().message, HasSubstr("set metrics.listen"));
  EXPECT_FALSE(MetricsPort::listen("0.0.0.0:0", fixed_text));
}

}  // namespace
}  // namespace ds4::agent
