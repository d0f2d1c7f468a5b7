// Planned work, cancelling, closing, clients that go, the end.
#include <gmock/gmock.h>

#include "tests/agent/entry/fake_port.h"

namespace ds4::agent {
namespace {

using ipc::Status;
using test::Bench;
using test::count_from;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ---- planned work ----------------------------------------------------------------------------

TEST(EntryDrain, NewRequestsAreBusyWhileThoseThatRunGoOn) {
  Bench bench;
  ipc::GenerateRequest request = Bench::request(1, {1});
  request.max_tokens = 2;
  bench.ask(1, request);
  bench.entry.set_draining(true);
  request.id = 2;
  bench.ask(1, request);
  EXPECT_EQ(bench.final(1, 2).status, Status::kBusy);
  EXPECT_THAT(bench.final(1, 2).sentence, HasSubstr("planned work"));
  EXPECT_EQ(bench.entry.active_requests(), 1U);
  bench.run();
  EXPECT_EQ(bench.final(1, 1).status, Status::kOkLength);
  EXPECT_EQ(bench.entry.active_requests(), 0U);

  bench.entry.set_draining(false);
  request.id = 3;
  bench.ask(1, request);
  bench.run();
  EXPECT_EQ(bench.final(1, 3).status, Status::kOkLength);
}

// ---- cancelling ------------------------------------------------------------------------------

TEST(EntryCancel, EndsTheRequestAtOnceAndIgnoresWhatIsStillOnItsWay) {
  Bench bench;
  bench.ask(1, Bench::request(1, count_from(1, 50)));
  const wire::WorkItem first = bench.take();
  const wire::WorkItem second = bench.take();
  bench.cancel(1, 1);
  EXPECT_EQ(bench.final(1, 1).status, Status::kCancelled);
  EXPECT_EQ(bench.final(1, 1).prompt_tokens, 50U);
  EXPECT_EQ(bench.final(1, 1).session_id, 0U);
  EXPECT_TRUE(bench.port.closed.contains(first.session));
  bench.answer(first);
  bench.answer(second);
  bench.refuse(second, ErrorCode::kInternal);
  EXPECT_TRUE(bench.port.work.empty());
  EXPECT_EQ(bench.entry.sessions(), 0U);
}

TEST(EntryCancel, OfARequestThatEndedDoesNothing) {
  Bench bench;
  bench.cancel(1, 9);
  ipc::GenerateRequest request = Bench::request(1, {1});
  request.max_tokens = 1;
  bench.ask(1, request);
  bench.run();
  bench.cancel(1, 1);
  bench.cancel(2, 1);
  EXPECT_EQ(bench.final(1, 1).status, Status::kOkLength);
}

TEST(EntryCancel, OfAnotherClientsRequestDoesNothing) {
  Bench bench;
  bench.ask(1, Bench::request(1, {1}));
  bench.cancel(2, 1);
  EXPECT_EQ(bench.entry.active_requests(), 1U);
}

TEST(EntryCancel, DuringPrefillAKeptSessionGoesOnWhereItWas) {
  Bench bench;
  bench.ask(1, Bench::keeping(1, count_from(1, 25)));
  const wire::WorkItem first = bench.take();
  const wire::WorkItem second = bench.take();
  bench.cancel(1, 1);
  const std::uint64_t session = bench.final(1, 1).session_id;
  ASSERT_NE(session, 0U);
  EXPECT_TRUE(bench.port.closed.empty());
  bench.ask(1, Bench::keeping(2, {60}, session));
  EXPECT_TRUE(bench.port.work.empty());  // its chunks are still in flight
  bench.answer(first);
  const wire::WorkItem rest = bench.take();
  EXPECT_EQ(rest.first_position, 20U);
  EXPECT_THAT(rest.tokens, ElementsAre(21, 22, 23, 24, 25, 60));
  bench.answer(second);
  bench.answer(rest, 40);
  EXPECT_THAT(bench.tokens(1, 2), ElementsAre(40));
}

TEST(EntryCancel, ALateTokenIsNotTakenForTheNextAnswers) {
  Bench bench;
  bench.ask(1, Bench::keeping(1, {1, 2}));
  const wire::WorkItem late = bench.take();
  bench.cancel(1, 1);
  bench.ask(1, Bench::keeping(2, {3}, bench.final(1, 1).session_id));
  const wire::WorkItem next = bench.take();
  EXPECT_EQ(next.first_position, 2U);
  bench.answer(late, 40);
  EXPECT_TRUE(bench.tokens(1, 2).empty());
  bench.answer(next, 41);
  EXPECT_THAT(bench.tokens(1, 2), ElementsAre(41));
}

TEST(EntryCancel, OfADecodeStepThenGoingOnWithNothingNewReplays) {
  Bench bench;
  bench.ask(1, Bench::keeping(1, {1, 2}));
  bench.answer(bench.take(), 40);
  const wire::WorkItem step = bench.take();  // all tokens are fed now
  bench.cancel(1, 1);
  bench.ask(1, Bench::keeping(2, {}, bench.final(1, 1).session_id));
  EXPECT_TRUE(bench.port.closed.contains(step.session));
  const wire::WorkItem replay = bench.take();
  EXPECT_NE(replay.session, step.session);
  EXPECT_EQ(replay.first_position, 0U);
  EXPECT_THAT(replay.tokens, ElementsAre(1, 2, 40));
  bench.answer(step, 41);  // of the former cache
  EXPECT_TRUE(bench.tokens(1, 2).empty());
  bench.answer(replay, 42);
  EXPECT_THAT(bench.tokens(1, 2), ElementsAre(42));
}

TEST(EntryCancel, OfAPausedRequestLeavesNothingToResume) {
  Bench bench;
  bench.port.full.insert(1);
  bench.ask(1, Bench::keeping(1, {1}));
  bench.answer(bench.take(), 40);
  bench.cancel(1, 1);
  bench.port.full.clear();
  bench.entry.on_space(1);
  EXPECT_TRUE(bench.port.work.empty());
  bench.ask(1, Bench::keeping(2, {}, bench.final(1, 1).session_id));
  EXPECT_THAT(bench.take().tokens, ElementsAre(40));
}

// ---- closing and leaving ---------------------------------------------------------------------

TEST(EntryClose, AKeptSessionIsForgotten) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, {1, 2});
  bench.close(1, 2, session);
  EXPECT_EQ(bench.final(1, 2).status, Status::kOkClosed);
  EXPECT_EQ(bench.entry.sessions(), 0U);
  EXPECT_EQ(bench.port.closed.size(), 1U);
  bench.close(1, 3, session);
  EXPECT_EQ(bench.final(1, 3).status, Status::kUnknownSession);
}

TEST(EntryClose, ForeignSessionsAreUnknown) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, {1, 2});
  bench.close(2, 1, session);
  EXPECT_EQ(bench.final(2, 1).status, Status::kUnknownSession);
  EXPECT_EQ(bench.entry.sessions(), 1U);
}

TEST(EntryClose, ARequestInProgressIsCancelledFirst) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, {1, 2});
  bench.ask(1, Bench::keeping(2, {3}, session));
  bench.close(1, 3, session);
  EXPECT_EQ(bench.final(1, 2).status, Status::kCancelled);
  EXPECT_EQ(bench.final(1, 2).session_id, 0U);
  EXPECT_EQ(bench.final(1, 3).status, Status::kOkClosed);
  EXPECT_EQ(bench.entry.sessions(), 0U);
}

TEST(EntryGone, EverythingOfTheClientEndsUnheard) {
  Bench bench;
  bench.kept_session(1, 1, {1, 2});
  bench.ask(1, Bench::request(2, count_from(1, 50)));
  bench.port.full.insert(1);
  bench.ask(1, Bench::request(3, {9}));
  bench.ask(2, Bench::request(1, {1}));
  std::vector<wire::WorkItem> sent(bench.port.work.begin(), bench.port.work.end());
  bench.port.work.clear();
  bench.answer(sent[2]);  // request 3 is paused now
  bench.leave(1);
  EXPECT_EQ(bench.port.closed.size(), 3U);
  EXPECT_EQ(bench.entry.sessions(), 1U);
  EXPECT_EQ(bench.entry.active_requests(), 1U);
  for (const auto& item : sent) bench.answer(item);
  bench.entry.on_space(1);
  EXPECT_EQ(bench.tokens(2, 1).size(), 1U);
  EXPECT_FALSE(bench.ended(1, 2));
}

// ---- the end ---------------------------------------------------------------------------------

TEST(EntryShutDown, EndsEverythingAndRefusesWhatComesLater) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, {1});
  bench.kept_session(1, 2, {1});
  bench.ask(1, Bench::keeping(3, {5}, session));
  bench.ask(2, Bench::request(1, count_from(1, 50)));
  bench.entry.shut_down();
  EXPECT_EQ(bench.final(1, 3).status, Status::kAgentShutdown);
  EXPECT_EQ(bench.final(1, 3).session_id, 0U);
  EXPECT_EQ(bench.final(2, 1).status, Status::kAgentShutdown);
  EXPECT_EQ(bench.entry.sessions(), 0U);
  EXPECT_EQ(bench.entry.active_requests(), 0U);
  EXPECT_EQ(bench.port.closed.size(), 3U);
  bench.ask(1, Bench::request(4, {1}));
  EXPECT_EQ(bench.final(1, 4).status, Status::kAgentShutdown);
  while (!bench.port.work.empty()) bench.answer(bench.take());
  bench.entry.shut_down();
  bench.route(9);
  EXPECT_TRUE(bench.port.work.empty());
}

}  // namespace
}  // namespace ds4::agent
