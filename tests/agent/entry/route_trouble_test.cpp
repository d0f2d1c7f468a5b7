// Routes that come and go, stages that fail.
#include <gmock/gmock.h>

#include "tests/agent/entry/fake_port.h"

namespace ds4::agent {
namespace {

using ipc::Status;
using test::Bench;
using test::count_from;
using test::small_config;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ---- the route -------------------------------------------------------------------------------

TEST(EntryRoute, WhereNoneIsReadyRequestsAreRefusedWithTheReason) {
  Bench bench;
  bench.route(1, false, "layers are loading", ipc::RouteState::kLoading);
  bench.ask(1, Bench::request(1, {1}));
  EXPECT_EQ(bench.final(1, 1).status, Status::kRouteNotReady);
  EXPECT_THAT(bench.final(1, 1).sentence, HasSubstr("not ready: layers are loading"));
  bench.route(1, false, "", ipc::RouteState::kIdle);
  bench.ask(1, Bench::request(2, {1}));
  EXPECT_EQ(bench.final(1, 2).sentence, "");  // the fixed sentence says it
  bench.route(1, false, "", ipc::RouteState::kStopping);
  bench.ask(1, Bench::request(3, {1}));
  EXPECT_EQ(bench.final(1, 3).status, Status::kAgentShutdown);
  EXPECT_EQ(bench.entry.sessions(), 0U);
}

TEST(EntryRoute, WhatCanNeverSucceedIsSaidEvenWithoutARoute) {
  Bench bench;
  bench.route(1, false, "loading", ipc::RouteState::kLoading);
  bench.ask(1, Bench::request(1, count_from(1, 100)));
  EXPECT_EQ(bench.final(1, 1).status, Status::kOutOfRange);
  bench.ask(1, Bench::request(2, {1}, 77));
  EXPECT_EQ(bench.final(1, 2).status, Status::kUnknownSession);
}

TEST(EntryRoute, WhenItGoesRequestsEndAsRetryable) {
  Bench bench;
  bench.ask(1, Bench::keeping(1, {1, 2}));
  const wire::WorkItem item = bench.take();
  bench.route(1, false, "node right does not answer", ipc::RouteState::kDegraded);
  const auto& final = bench.final(1, 1);
  EXPECT_EQ(final.status, Status::kPeerLost);
  EXPECT_THAT(final.sentence, HasSubstr("node right does not answer"));
  EXPECT_EQ(final.session_id, 0U);  // a new session does not outlive its failed request
  bench.answer(item);
  EXPECT_EQ(bench.entry.sessions(), 0U);
}

TEST(EntryRoute, AFailedRequestLeavesAKeptSessionAsItWas) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, {1, 2});
  bench.ask(1, Bench::request(2, {20, 21}, session));
  bench.answer(bench.take(), 40);
  bench.route(1, false, "gone", ipc::RouteState::kDegraded);
  EXPECT_EQ(bench.final(1, 2).status, Status::kPeerLost);
  EXPECT_EQ(bench.final(1, 2).generated_tokens, 1U);
  EXPECT_EQ(bench.final(1, 2).session_id, session);
  bench.port.work.clear();
  bench.route(1);
  // The very same request again: the session is replayed with it.
  bench.ask(1, Bench::request(3, {20, 21}, session));
  const wire::WorkItem replay = bench.take();
  EXPECT_EQ(replay.first_position, 0U);
  EXPECT_EQ(replay.prefix_hash, 0U);
  EXPECT_THAT(replay.tokens, ElementsAre(1, 2, 7, 20, 21));
  bench.answer(replay, 40);
  EXPECT_THAT(bench.tokens(1, 3), ElementsAre(40));
}

TEST(EntryRoute, AKeptSessionOfAFormerRouteIsReplayedUnseen) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, count_from(1, 15));
  bench.route(2, false, "joining", ipc::RouteState::kLoading);
  bench.entry_index = 1;
  bench.route(2);
  EXPECT_TRUE(bench.port.closed.empty());  // nobody holds the former cache any more
  ipc::GenerateRequest request = Bench::keeping(2, {20}, session);
  request.progress = true;
  bench.ask(1, request);
  const wire::WorkItem first = bench.take();
  const wire::WorkItem second = bench.take();
  EXPECT_EQ(first.tokens, count_from(1, 10));
  EXPECT_EQ(first.entry, 1U);
  EXPECT_THAT(second.tokens, ElementsAre(11, 12, 13, 14, 15, 7, 20));
  EXPECT_EQ(second.prefix_hash, wire::extend_hash(0, count_from(1, 10)));
  bench.answer(first);
  bench.answer(second, 40);
  EXPECT_THAT(bench.tokens(1, 2), ElementsAre(40));
  EXPECT_THAT((bench.port.progresses[{1, 2}]), ElementsAre(std::pair(1U, 1U)));
}

TEST(EntryRoute, AReadyRouteInPlaceOfAnotherReplaysRequestsInProgress) {
  Bench bench;
  bench.ask(1, Bench::request(1, {1, 2}));
  bench.ask(2, Bench::request(1, count_from(1, 30)));
  const wire::WorkItem first = bench.take();
  bench.answer(first, 40);
  bench.answer(bench.take());
  bench.port.work.clear();
  bench.route(2);
  EXPECT_FALSE(bench.ended(1, 1));
  const wire::WorkItem replay = bench.take();
  EXPECT_THAT(replay.tokens, ElementsAre(1, 2, 40));
  EXPECT_EQ(replay.first_position, 0U);
  EXPECT_EQ(bench.take().tokens, count_from(1, 10));
  bench.answer(first, 50);  // of the former route
  bench.answer(replay, 41);
  EXPECT_THAT(bench.tokens(1, 1), ElementsAre(40, 41));
}

TEST(EntryRoute, APausedRequestIsReplayedWhenItsClientHasRoom) {
  Bench bench;
  bench.port.full.insert(1);
  bench.ask(1, Bench::request(1, {1, 2}));
  bench.answer(bench.take(), 40);
  bench.route(2);
  EXPECT_TRUE(bench.port.work.empty());
  bench.port.full.clear();
  bench.entry.on_space(1);
  EXPECT_THAT(bench.take().tokens, ElementsAre(1, 2, 40));
}

TEST(EntryRoute, ClosingsWaitForTheRouteTheyConcern) {
  Bench bench;
  const std::uint64_t first = bench.kept_session(1, 1, {1});
  const std::uint64_t second = bench.kept_session(1, 2, {1});
  bench.route(1, false, "gone", ipc::RouteState::kDegraded);
  bench.close(1, 3, first);
  EXPECT_TRUE(bench.port.closed.empty());
  bench.route(1);
  EXPECT_EQ(bench.port.closed.size(), 1U);
  bench.route(1, false, "gone", ipc::RouteState::kDegraded);
  bench.close(1, 4, second);
  bench.route(2);  // another route has no such session
  EXPECT_EQ(bench.port.closed.size(), 1U);
}

/// What was sent while the link was failing may have been lost.
TEST(EntryRoute, ClosingsFromBeforeALinkFailedAreSentAgain) {
  using namespace std::chrono_literals;
  Bench bench;
  const auto start = std::chrono::steady_clock::time_point{1h};
  bench.entry.on_time(start);
  const std::uint64_t early = bench.kept_session(1, 1, {1});
  const std::uint64_t late = bench.kept_session(1, 2, {1});
  bench.close(1, 3, early);
  const auto closed_early = bench.port.closed;
  bench.entry.on_time(start + 1min);
  bench.close(1, 4, late);
  ASSERT_EQ(bench.port.closed.size(), 2U);
  const auto closed = std::exchange(bench.port.closed, {});
  bench.entry.on_time(start + 1min + 2s);
  bench.route(1, false, "gone", ipc::RouteState::kDegraded);
  EXPECT_TRUE(bench.port.closed.empty());
  bench.route(1);
  ASSERT_EQ(bench.port.closed.size(), 1U) << "the one of a minute ago has arrived";
  EXPECT_TRUE(closed.contains(*bench.port.closed.begin()));
  EXPECT_FALSE(closed_early.contains(*bench.port.closed.begin()));
  bench.port.closed.clear();
  bench.route(1, false, "gone again", ipc::RouteState::kDegraded);
  bench.route(1);
  EXPECT_EQ(bench.port.closed.size(), 1U) << "nor is it sure that the second one has";
  bench.route(1, false, "gone", ipc::RouteState::kDegraded);
  bench.port.closed.clear();
  bench.route(2);
  EXPECT_TRUE(bench.port.closed.empty()) << "another route has no such session";
}

TEST(EntryRoute, ChunksInFlightOfIdleSessionsAreNotAwaitedForEver) {
  EntryConfig config = small_config();
  config.tokens_in_flight = 20;
  Bench bench(config);
  bench.ask(1, Bench::keeping(1, count_from(1, 50)));
  bench.cancel(1, 1);
  EXPECT_EQ(bench.port.work.size(), 2U);
  bench.port.work.clear();  // lost with the link
  bench.route(1, false, "gone", ipc::RouteState::kDegraded);
  bench.route(1);
  bench.ask(2, Bench::request(1, {1}));
  EXPECT_EQ(bench.port.work.size(), 1U);
}

// ---- stages that fail ------------------------------------------------------------------------

TEST(EntryError, AMismatchIsReplayedAndNoTokenIsDeliveredTwice) {
  Bench bench;
  bench.ask(1, Bench::request(1, {1, 2}));
  bench.answer(bench.take(), 40);
  const wire::WorkItem step = bench.take();
  bench.refuse(step, ErrorCode::kMismatch);
  EXPECT_TRUE(bench.port.closed.contains(step.session));
  const wire::WorkItem replay = bench.take();
  EXPECT_NE(replay.session, step.session);
  EXPECT_EQ(replay.first_position, 0U);
  EXPECT_THAT(replay.tokens, ElementsAre(1, 2, 40));
  bench.refuse(step, ErrorCode::kMismatch);  // more of the former cache's: not counted
  bench.answer(step, 60);
  bench.answer(replay, 41);
  EXPECT_THAT(bench.tokens(1, 1), ElementsAre(40, 41));
  EXPECT_FALSE(bench.ended(1, 1));
}

TEST(EntryError, AFourthMismatchWithoutATokenBetweenEndsTheRequest) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, {1});
  bench.ask(1, Bench::keeping(2, {2}, session));
  for (int i = 0; i < 3; ++i) bench.refuse(bench.take(), ErrorCode::kMismatch);
  EXPECT_FALSE(bench.ended(1, 2));
  bench.refuse(bench.take(), ErrorCode::kMismatch, "stage 1 (3:output): the session is not held");
  EXPECT_EQ(bench.final(1, 2).status, Status::kPeerLost);
  EXPECT_THAT(bench.final(1, 2).sentence, HasSubstr("stage 1 (3:output)"));
  EXPECT_EQ(bench.final(1, 2).session_id, session);
  EXPECT_EQ(bench.port.closed.size(), 4U);
}

TEST(EntryError, AMismatchAfterATokenIsReplayedAgain) {
  Bench bench;
  bench.ask(1, Bench::request(1, {1}));
  for (std::int32_t token = 40; token < 45; ++token) {
    bench.refuse(bench.take(), ErrorCode::kMismatch);
    bench.answer(bench.take(), token);
  }
  EXPECT_THAT(bench.tokens(1, 1), ElementsAre(40, 41, 42, 43, 44));
}

TEST(EntryError, APausedRequestIsReplayedWhenItsClientHasRoom) {
  Bench bench;
  bench.port.full.insert(1);
  bench.ask(1, Bench::request(1, {1, 2}));
  const wire::WorkItem item = bench.take();
  bench.answer(item, 40);
  bench.refuse(item, ErrorCode::kMismatch);
  EXPECT_TRUE(bench.port.work.empty());
  bench.port.full.clear();
  bench.entry.on_space(1);
  EXPECT_THAT(bench.take().tokens, ElementsAre(1, 2, 40));
}

TEST(EntryError, AnIdleSessionIsReplayedAtItsNextRequest) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, count_from(1, 5));
  bench.ask(1, Bench::keeping(2, {9}, session));
  const wire::WorkItem item = bench.take();
  bench.cancel(1, 2);
  bench.refuse(item, ErrorCode::kInternal);
  bench.ask(1, Bench::keeping(3, {10}, session));
  const wire::WorkItem replay = bench.take();
  EXPECT_EQ(replay.first_position, 0U);
  EXPECT_THAT(replay.tokens, ElementsAre(1, 2, 3, 4, 5, 7, 9, 10));
}

TEST(EntryError, EachCodeEndsTheRequestWithItsStatusAndSentence) {
  const std::vector<std::pair<ErrorCode, Status>> expected = {
      {ErrorCode::kInvalidArgument, Status::kInvalid},
      {ErrorCode::kOutOfRange, Status::kOutOfRange},
      {ErrorCode::kResourceExhausted, Status::kBusy},
      {ErrorCode::kUnavailable, Status::kPeerLost},
      {ErrorCode::kTimeout, Status::kPeerLost},
      {ErrorCode::kCorrupt, Status::kInternal},
      {ErrorCode::kIo, Status::kInternal},
      {ErrorCode::kInternal, Status::kInternal}};
  for (const auto& [code, status] : expected) {
    Bench bench;
    bench.ask(1, Bench::request(1, {1}));
    const wire::WorkItem item = bench.take();
    bench.refuse(item, code, "the reason");
    EXPECT_EQ(bench.final(1, 1).status, status);
    EXPECT_EQ(bench.final(1, 1).sentence, "the reason");
    EXPECT_TRUE(bench.port.closed.contains(item.session));  // other stages may hold it
    EXPECT_EQ(bench.entry.sessions(), 0U);
  }
}

TEST(EntryError, MemoryOnARouteIsMadeByGivingUpIdleCachesOldestFirst) {
  Bench bench;
  const std::uint64_t older = bench.kept_session(1, 1, {1, 2});
  const std::uint64_t newer = bench.kept_session(1, 2, {3, 4});
  bench.ask(2, Bench::request(1, {5}));
  const wire::WorkItem refused = bench.take();
  bench.refuse(refused, ErrorCode::kResourceExhausted);
  EXPECT_EQ(bench.port.closed.size(), 2U);  // the older cache, and the refused one elsewhere
  EXPECT_TRUE(bench.port.closed.contains(refused.session));
  bench.answer(bench.take(), 40);
  EXPECT_THAT(bench.tokens(2, 1), ElementsAre(40));
  bench.port.work.clear();
  // Both sessions live on, the older one by replay.
  bench.ask(1, Bench::request(3, {20}, newer));
  EXPECT_THAT(bench.take().tokens, ElementsAre(7, 20));
  bench.ask(1, Bench::request(4, {20}, older));
  EXPECT_THAT(bench.take().tokens, ElementsAre(1, 2, 7, 20));
}

TEST(EntryError, WhenNoIdleCacheIsLeftTheRequestIsBusy) {
  Bench bench;
  bench.kept_session(1, 1, {1, 2});
  bench.ask(2, Bench::request(1, {5}));
  bench.refuse(bench.take(), ErrorCode::kResourceExhausted, "out of KV memory");
  bench.refuse(bench.take(), ErrorCode::kResourceExhausted, "out of KV memory");
  EXPECT_EQ(bench.final(2, 1).status, Status::kBusy);
  EXPECT_EQ(bench.final(2, 1).sentence, "out of KV memory");
}

TEST(EntryError, WhatWasNeverSentIsNotBelieved) {
  Bench bench;
  bench.ask(1, Bench::request(1, count_from(1, 50)));
  const wire::WorkItem item = bench.take();
  bench.entry.on_outcome({item.session, 50, 9, 0});  // 20 are sent
  bench.entry.on_outcome({item.session, 0xffffffff, 9, 0});
  bench.entry.on_outcome({item.session + 7, 1, 9, 0});
  bench.entry.on_error({0, 0, {item.session + 7}, ErrorCode::kInternal, ""});
  EXPECT_EQ(bench.port.work.size(), 1U);             // nothing made room
  bench.entry.on_outcome({item.session, 10, 9, 0});  // no token was asked for here
  EXPECT_TRUE(bench.tokens(1, 1).empty());
  EXPECT_FALSE(bench.ended(1, 1));
}

TEST(EntryError, ATokenThatComesTwiceIsDeliveredOnce) {
  Bench bench;
  bench.ask(1, Bench::request(1, {1}));
  const wire::WorkItem item = bench.take();
  bench.answer(item, 40);
  bench.answer(item, 40);
  EXPECT_THAT(bench.tokens(1, 1), ElementsAre(40));
  EXPECT_EQ(bench.port.work.size(), 1U);
}

}  // namespace
}  // namespace ds4::agent
