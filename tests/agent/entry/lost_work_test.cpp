// Work that the route took and never answered.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/agent/entry/fake_port.h"

namespace ds4::agent::test {
namespace {

using namespace std::chrono_literals;
using ipc::Status;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class LostWork : public ::testing::Test {
 protected:
  static EntryConfig config() {
    EntryConfig config = small_config();
    config.lost_after = 30s;
    return config;
  }
  LostWork() { pass(1ms); }
  void pass(std::chrono::milliseconds time) {
    now += time;
    bench.entry.on_time(now);
  }

  std::chrono::steady_clock::time_point now{std::chrono::hours(1)};
  Bench bench{config()};
};

TEST_F(LostWork, APromptIsFedAgainUnderAnotherName) {
  bench.ask(1, Bench::request(1, {1, 2, 3}));
  const wire::WorkItem lost = bench.take();
  pass(30s);
  EXPECT_TRUE(bench.port.work.empty());  // three tokens are under way: a little longer
  pass(1s);
  const wire::WorkItem again = bench.take();
  EXPECT_EQ(again.tokens, lost.tokens);
  EXPECT_EQ(again.first_position, 0U);
  EXPECT_NE(again.session, lost.session);
  EXPECT_THAT(bench.port.closed, ElementsAre(lost.session));
  bench.answer(again, 5);
  bench.answer(lost, 9);  // late: it was only slow
  EXPECT_THAT(bench.tokens(1, 1), ElementsAre(5));
}

TEST_F(LostWork, ADecodeStepIsFedAgainWithEverythingBeforeIt) {
  bench.ask(1, Bench::request(1, {1, 2, 3}));
  bench.answer(bench.take(), 5);
  const wire::WorkItem step = bench.take();
  EXPECT_THAT(step.tokens, ElementsAre(5));
  pass(31s);
  const wire::WorkItem again = bench.take();
  EXPECT_THAT(again.tokens, ElementsAre(1, 2, 3, 5));
  bench.answer(step, 8);  // of the former cache: nobody's any more
  bench.answer(again, 6);
  EXPECT_THAT(bench.tokens(1, 1), ElementsAre(5, 6));
}

TEST_F(LostWork, EveryAnswerStartsTheTimeAnew) {
  bench.ask(1, Bench::request(1, {1}));
  for (int i = 0; i < 5; ++i) {
    pass(25s);
    bench.answer(bench.take(), 7);
  }
  EXPECT_EQ(bench.tokens(1, 1).size(), 5U);
  EXPECT_TRUE(bench.port.closed.empty());
}

TEST_F(LostWork, EachAttemptHasTwiceTheTimeAndTheFourthIsTheLast) {
  bench.ask(1, Bench::request(1, {1}));
  bench.take();
  for (const auto patience : {30s, 60s, 120s}) {
    pass(patience);
    EXPECT_TRUE(bench.port.work.empty());
    pass(1s);
    bench.take();
  }
  pass(240s);
  EXPECT_FALSE(bench.ended(1, 1));
  pass(1s);
  EXPECT_EQ(bench.final(1, 1).status, Status::kPeerLost);
  EXPECT_THAT(bench.final(1, 1).sentence, HasSubstr("answered nothing"));
  EXPECT_EQ(bench.entry.sessions(), 0U);
}

TEST_F(LostWork, ATokenMakesTheNextLossTheFirst) {
  bench.ask(1, Bench::request(1, {1}));
  bench.take();
  pass(31s);
  bench.answer(bench.take(), 7);
  bench.take();
  pass(31s);
  EXPECT_FALSE(bench.port.work.empty());
}

TEST_F(LostWork, APausedRequestIsNotLost) {
  bench.port.full.insert(1);
  bench.ask(1, Bench::request(1, {1}));
  bench.answer(bench.take(), 7);
  pass(3600s);
  EXPECT_TRUE(bench.port.work.empty());
  EXPECT_TRUE(bench.port.closed.empty());
  EXPECT_FALSE(bench.ended(1, 1));
}

TEST_F(LostWork, ACancelledRequestsChunksDoNotHoldTheirPlaceForEver) {
  const std::uint64_t session = bench.kept_session(1, 1, {1, 2});
  bench.ask(1, Bench::keeping(2, {20, 21}, session));
  bench.take();  // lost
  bench.cancel(1, 2);
  EXPECT_EQ(bench.final(1, 2).status, Status::kCancelled);
  pass(31s);
  EXPECT_EQ(bench.port.closed.size(), 1U);
  EXPECT_EQ(bench.entry.sessions(), 1U);  // its tokens stay
}

TEST_F(LostWork, WithoutARouteNothingCountsAsLost) {
  bench.ask(1, Bench::request(1, {1}));
  bench.take();
  bench.route(1, false, "gone", ipc::RouteState::kDegraded);
  EXPECT_EQ(bench.final(1, 1).status, Status::kPeerLost);
  pass(3600s);
  EXPECT_TRUE(bench.port.work.empty());
}

}  // namespace
}  // namespace ds4::agent::test
