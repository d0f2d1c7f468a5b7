#include "agent/link/link_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <thread>

#include "agent/link/links.h"

namespace ds4::agent {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

keys::KeyPair key_pair() {
  return keys::make_key_pair(keys::KeyRole::kNode).value();
}

/// An agent's links, answering on a thread as its main loop would.
class Answering {
 public:
  Answering(std::optional<keys::KeyPair> key, keys::Gate gate)
      : gate_(std::move(gate)), key_(std::move(key)) {
    LinkConfig config;
    config.address = "tcp://127.0.0.1:*";
    config.key = key_;
    links_ = Links::bind(config, gate_).value();
    thread_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        links_->wait({}, 10ms);
        while (links_->receive([this](const Incoming&) { ++handed_on_; })) continue;
      }
    });
  }
  ProbeTarget target() const {
    return {links_->address(), key_ ? std::optional(key_->public_key) : std::nullopt};
  }
  int handed_on() const { return handed_on_; }

 private:
  const keys::Gate gate_;
  const std::optional<keys::KeyPair> key_;
  std::unique_ptr<Links> links_;
  std::atomic<int> handed_on_{0};
  std::jthread thread_;
};

keys::Gate expecting(const keys::KeyPair& prober) {
  keys::Gate gate;
  gate.set_probers({prober.public_key.bytes});
  return gate;
}

ProbeLimits soon() {
  ProbeLimits limits;
  limits.connect = 300ms;
  return limits;
}

TEST(LinkProbe, MeasuresRoundTripAndRate) {
  const keys::KeyPair prober = key_pair();
  const Answering other(key_pair(), expecting(prober));
  const auto figures = measure_link(other.target(), prober);
  ASSERT_TRUE(figures) << figures.error().message;
  EXPECT_GT(figures->bytes_per_s, 0U);
  EXPECT_GE(figures->probe_bytes, 64U << 10);
  EXPECT_LE(figures->probe_bytes, wire::kMaxProbeBytes);
  EXPECT_EQ(other.handed_on(), 0);  // answered by the links alone
}

TEST(LinkProbe, WorksWithoutEncryptionWhereNobodyHasAKey) {
  const Answering other(std::nullopt, keys::Gate());
  EXPECT_TRUE(measure_link(other.target(), std::nullopt));
}

TEST(LinkProbe, OfSomebodyWhoIsNotExpectedFailsWithASentence) {
  const Answering other(key_pair(), expecting(key_pair()));
  const auto figures = measure_link(other.target(), key_pair(), soon());
  ASSERT_FALSE(figures);
  EXPECT_EQ(figures.error().code, ErrorCode::kTimeout);
  EXPECT_THAT(figures.error().message, HasSubstr(other.target().address));
}

TEST(LinkProbe, OfAnotherAgentThanTheOneMeantFails) {
  const keys::KeyPair prober = key_pair();
  const Answering other(key_pair(), expecting(prober));
  ProbeTarget mistaken = other.target();
  mistaken.key = key_pair().public_key;
  EXPECT_FALSE(measure_link(mistaken, prober, soon()));
}

TEST(LinkProbe, WhereNobodyListensEndsInTime) {
  EXPECT_EQ(measure_link({"tcp://127.0.0.1:1"}, std::nullopt, soon()).error().code,
            ErrorCode::kTimeout);
  EXPECT_EQ(measure_link({"nonsense"}, std::nullopt, soon()).error().code, ErrorCode::kIo);
}

TEST(LinkProber, TellsWhenItIsDoneAndCanBeginAgain) {
  const keys::KeyPair prober = key_pair();
  const Answering other(key_pair(), expecting(prober));
  LinkProber probing;
  for (int round = 0; round < 2; ++round) {
    EXPECT_FALSE(probing.busy());
    ASSERT_TRUE(probing.start(other.target(), prober));
    EXPECT_TRUE(probing.busy());
    pollfd event{probing.event_fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&event, 1, 60'000), 1);
    const auto outcome = probing.take();
    ASSERT_TRUE(outcome && *outcome) << (*outcome).error().message;
    EXPECT_FALSE(probing.take());
  }
}

TEST(LinkProber, GoesInTheMiddleOfAProbe) {
  LinkProber probing;
  ASSERT_TRUE(probing.start({"tcp://127.0.0.1:1"}, std::nullopt));
  EXPECT_FALSE(probing.take());
}

}  // namespace
}  // namespace ds4::agent
