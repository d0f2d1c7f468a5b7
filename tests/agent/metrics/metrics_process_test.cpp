// Real agents, scraped as Prometheus does it.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <fstream>
#include <regex>

#include "ipc/client/ds4.hpp"
#include "tests/agent/agent_process.h"
#include "tests/agent/metrics/prometheus_reader.h"

namespace ds4::test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* kWithMetrics = "[engine]\nthreads = 1\n[metrics]\nlisten = \"127.0.0.1:0\"\n";

std::uint16_t metrics_port(const AgentProcess& agent) {
  static const std::regex kAddress(R"(http://127\.0\.0\.1:([0-9]+)/metrics)");
  std::smatch match;
  const std::string log = agent.log();
  if (!std::regex_search(log, match, kAddress)) return 0;
  return static_cast<std::uint16_t>(std::stoi(match[1]));
}

UniqueFd dial(std::uint16_t port) {
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(port);
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&where), sizeof(where)), 0);
  return fd;
}

Metrics scrape(const AgentProcess& agent) {
  const UniqueFd fd = dial(metrics_port(agent));
  const std::string request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
  EXPECT_EQ(::send(fd.get(), request.data(), request.size(), 0),
            static_cast<ssize_t>(request.size()));
  std::string answer;
  std::array<char, 4096> bytes;
  for (ssize_t got = 0; (got = ::recv(fd.get(), bytes.data(), bytes.size(), 0)) > 0;) {
    answer.append(bytes.data(), static_cast<std::size_t>(got));
  }
  EXPECT_THAT(answer, ::testing::StartsWith("HTTP/1.1 200 OK\r\n"));
  return read_metrics(answer.substr(answer.find("\r\n\r\n") + 4));
}

std::string ask(const AgentProcess& agent, std::string_view question) {
  client::Connection connection(agent.socket_path());
  const auto prompt = connection.chat(question);
  connection.submit({.prompt = prompt});
  auto decoder = connection.decoder();
  std::string text;
  while (const auto event = connection.next(kPatience)) {
    if (client::is_token(*event)) text += decoder.push(event->token);
    if (client::is_final(*event)) return text.append(decoder.finish());
  }
  return text;
}

TEST(Metrics, CountWhatARouteOfTwoAgentsDoes) {
  AgentProcess a({.name = "a", .toml = kWithMetrics});
  AgentProcess b({.name = "b", .toml = kWithMetrics});
  const Metrics idle = scrape(a);
  EXPECT_THAT(idle.complaints, IsEmpty());
  EXPECT_EQ(idle.value("ds4d_ready"), 0);
  EXPECT_EQ(idle.value("ds4d_state{state=\"idle\"}"), 1);

  ASSERT_TRUE(assign({&a, &b}, route_of({{&a, "0:2"}, {&b, "3:output"}}), 1));
  ASSERT_EQ(ask(a, "What is the capital of France?"), "The capital of France is Paris.");
  const Metrics first = scrape(a);
  const Metrics last = scrape(b);
  for (const Metrics* metrics : {&first, &last}) {
    EXPECT_THAT(metrics->complaints, IsEmpty());
    EXPECT_EQ(metrics->value("ds4d_ready"), 1);
    EXPECT_GT(metrics->value("ds4d_batches_total"), 0);
    EXPECT_GT(metrics->value("ds4d_rows_total{kind=\"decode\"}"), 0);
    EXPECT_GT(metrics->value("ds4d_rows_total{kind=\"prefill\"}"), 0);
    EXPECT_GT(metrics->value("ds4d_compute_seconds_total"), 0);
    EXPECT_GT(metrics->value("ds4d_queue_items_total"), 0);
    EXPECT_GT(metrics->value("ds4d_send_frames_total"), 0);
    EXPECT_GT(metrics->value("ds4d_cover_bytes"), 0);
    EXPECT_EQ(metrics->value("ds4d_resident_bytes"), metrics->value("ds4d_cover_bytes"));
  }
  EXPECT_EQ(first.value("ds4d_requests_total"), 1);
  EXPECT_EQ(first.value("ds4d_requests_failed_total"), 0);
  EXPECT_GT(first.value("ds4d_tokens_total"), 0);
  EXPECT_EQ(last.value("ds4d_requests_total"), 0);  // nobody asked b
  EXPECT_EQ(first.value("ds4d_sampled_tokens_total"), 0);
  // The canary's token besides those of the answer and its stop token.
  EXPECT_GT(last.value("ds4d_sampled_tokens_total"), first.value("ds4d_tokens_total"));
  EXPECT_GT(first.value("ds4d_link_sent_bytes_total{peer=\"b\"}"), 0);
  EXPECT_TRUE(eventually([&] {  // the last closing may still be on its way
    return scrape(b).value("ds4d_link_received_bytes_total{peer=\"a\"}") ==
           scrape(a).value("ds4d_link_sent_bytes_total{peer=\"b\"}");
  }));
  EXPECT_TRUE(
      eventually([&] { return scrape(a).value("ds4d_link_round_trip_seconds{peer=\"b\"}") > 0; }));
}

TEST(Metrics, ReadersWhoNeverFinishHoldUpNobody) {
  AgentProcess a({.name = "a", .toml = kWithMetrics});
  ASSERT_TRUE(assign({&a}, route_of({{&a, "0:output"}}), 1));
  std::vector<UniqueFd> slow;
  for (int i = 0; i < 20; ++i) slow.push_back(dial(metrics_port(a)));
  EXPECT_EQ(ask(a, "What is the capital of France?"), "The capital of France is Paris.");
  EXPECT_THAT(scrape(a).complaints, IsEmpty());  // once their time is up
}

TEST(Metrics, ATakenPortIsSaidAndTheAgentServes) {
  AgentProcess a({.name = "a", .toml = kWithMetrics});
  AgentProcess b({.name = "b",
                  .toml = "[engine]\nthreads = 1\n[metrics]\nlisten = \"127.0.0.1:" +
                          std::to_string(metrics_port(a)) + "\"\n"});
  EXPECT_THAT(b.log(), HasSubstr("no metrics until the next start: listen on 127.0.0.1:"));
  EXPECT_EQ(b.status().state, wire::NodeState::kIdle);
}

TEST(Metrics, AnAddressThatOthersCouldReachIsRefusedAtTheStart) {
  const TempDir directory;
  const std::string config = (directory.path() / "ds4d.toml").string();
  std::ofstream(config) << "model = \"" << tiny_q4_model() << "\"\nstate_dir = \""
                        << directory.path().string()
                        << "\"\n[metrics]\nlisten = \"0.0.0.0:9464\"\n";
  const RunResult result = run_ds4d({"--config", config});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.output, HasSubstr("metrics.listen: \"0.0.0.0:9464\" can be reached from"));
}

}  // namespace
}  // namespace ds4::test
