#include "agent/metrics/prometheus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "tests/agent/metrics/prometheus_reader.h"

namespace ds4::agent {
namespace {

using test::Metrics;
using test::read_metrics;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

wire::NodeStatus busy_node() {
  wire::NodeStatus status;
  status.name = "alpha";
  status.version = "1.2.3";
  status.layers = "0:2";
  status.state = wire::NodeState::kReady;
  status.epoch = 4;
  status.kv_bytes = 4096;
  status.cover.cover_bytes = 5U << 20;
  status.stage.decode_rows = 10;
  status.stage.prefill_rows = 20;
  status.stage.compute_us = 1'500'000;
  status.stage.wait_us = 7;
  status.links = {{"beta", 3, 300, 2, 200, 450}, {"gamma", 1, 10, 0, 0, 0}};
  status.clients = {2, 8, 1, 90, 120};
  return status;
}

TEST(PrometheusText, IsWellFormedAndHasEveryFigureInItsUnit) {
  const Metrics metrics = read_metrics(prometheus_text(busy_node()));
  EXPECT_THAT(metrics.complaints, IsEmpty());
  EXPECT_EQ(metrics.value("ds4d_ready"), 1);
  EXPECT_EQ(metrics.value("ds4d_epoch"), 4);
  EXPECT_EQ(metrics.value("ds4d_cover_bytes"), 5U << 20);
  EXPECT_EQ(metrics.value("ds4d_kv_bytes"), 4096);
  EXPECT_EQ(metrics.value("ds4d_rows_total{kind=\"decode\"}"), 10);
  EXPECT_EQ(metrics.value("ds4d_rows_total{kind=\"prefill\"}"), 20);
  EXPECT_EQ(metrics.value("ds4d_compute_seconds_total"), 1.5);
  EXPECT_EQ(metrics.value("ds4d_wait_seconds_total"), 7e-6);
  EXPECT_EQ(metrics.value("ds4d_tokens_total"), 120);
  EXPECT_EQ(metrics.value("ds4d_requests_failed_total"), 1);
  EXPECT_EQ(metrics.value("ds4d_link_sent_bytes_total{peer=\"beta\"}"), 300);
  EXPECT_EQ(metrics.value("ds4d_link_received_frames_total{peer=\"beta\"}"), 2);
  EXPECT_EQ(metrics.value("ds4d_link_round_trip_seconds{peer=\"beta\"}"), 450e-6);
  EXPECT_EQ(metrics.value("ds4d_link_round_trip_seconds{peer=\"gamma\"}"), -1);  // not known
}

TEST(PrometheusText, ExactlyOneStateIsTheNodes) {
  for (const auto state : {wire::NodeState::kIdle, wire::NodeState::kDegraded}) {
    wire::NodeStatus status = busy_node();
    status.state = state;
    const Metrics metrics = read_metrics(prometheus_text(status));
    double sum = 0;
    for (const auto& [name, value] : metrics.families.at("ds4d_state").samples) sum += value;
    EXPECT_EQ(sum, 1);
    EXPECT_EQ(metrics.value("ds4d_state{state=\"" + std::string(to_string(state)) + "\"}"), 1);
    EXPECT_EQ(metrics.value("ds4d_ready"), 0);
  }
}

TEST(PrometheusText, IsWellFormedForANodeThatHasNothing) {
  EXPECT_THAT(read_metrics(prometheus_text({})).complaints, IsEmpty());
}

TEST(PrometheusText, EveryFamilyIsInTheManual) {
  std::ifstream file(DS4_SOURCE_DIR "/packaging/man/ds4d.8");
  const std::string manual{std::istreambuf_iterator<char>(file), {}};
  const Metrics metrics = read_metrics(prometheus_text(busy_node()));
  EXPECT_GT(metrics.families.size(), 30U);
  for (const auto& [name, family] : metrics.families) {
    EXPECT_THAT(manual, ::testing::ContainsRegex(name + "[ \n]")) << name;
  }
}

TEST(PrometheusText, NamesOfPeersCannotBreakALine) {
  wire::NodeStatus status = busy_node();
  status.links[0].node = "a\"b\\c\nd{}";
  const std::string text = prometheus_text(status);
  EXPECT_THAT(read_metrics(text).complaints, IsEmpty());
  EXPECT_THAT(text, HasSubstr("{peer=\"a\\\"b\\\\c\\nd{}\"} 300\n"));
}

}  // namespace
}  // namespace ds4::agent
