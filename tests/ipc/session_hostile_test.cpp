// A client's memory as the agent reads it, without sockets: what breaks a connection, and what one
// client can cost in a turn.
#include <atomic>

#include "tests/ipc/session_fixture.h"

namespace ds4::ipc::testing {
namespace {

using ::testing::HasSubstr;

// ---- What a hostile client gets: hung up on -----------------------------------------------------

TEST_F(SessionTest, TailRunningAheadBreaks) {
  std::atomic_ref(region.header().submission_tail).store(kShape.submission_entries + 1);
  expect_broken("position jumped");
}

TEST_F(SessionTest, TailGoingBackBreaks) {
  submit(with_tokens(Op::kGenerate, 1, 1));
  turns();
  std::atomic_ref(region.header().submission_tail).store(0);
  expect_broken("position jumped");
}

TEST_F(SessionTest, CompletionHeadRunningAheadBreaks) {
  std::atomic_ref(region.header().completion_head).store(1000);
  submit(with_tokens(Op::kGenerate, 1, 1));
  turns();
  for (int i = 0; i < 40; ++i) session->token(1, 1, 1, 0);
  ASSERT_TRUE(session->broken());
  EXPECT_THAT(*session->broken(), HasSubstr("completion ring"));
}

TEST_F(SessionTest, TheAgentIgnoresWhatTheClientWritesOverItsWords) {
  submit(with_tokens(Op::kGenerate, 1, 10));
  turns();
  RegionHeader& header = region.header();
  header.submission_head = header.arena_head = header.completion_tail = UINT64_MAX;
  header.magic = header.region_bytes = 0;
  header.arena_tokens = header.submission_entries = header.completion_offset = UINT32_MAX;
  header.agent_wants = UINT32_MAX;
  submit(with_tokens(Op::kGenerate, 2, 10, 6));
  turns();
  ASSERT_EQ(sink.requests.size(), 2U);
  EXPECT_EQ(std::get<GenerateRequest>(sink.requests[1]).prompt, std::vector<std::int32_t>(10, 6));
  EXPECT_EQ(header.arena_head, 20U);
  EXPECT_EQ(header.submission_head, 2U);
  EXPECT_FALSE(session->broken());
}

TEST_F(SessionTest, IdsThatDoNotGrowBreak) {
  submit(with_tokens(Op::kGenerate, 5, 1));
  submit(with_tokens(Op::kGenerate, 5, 1));
  expect_broken("request id 5 does not grow");
  EXPECT_EQ(sink.requests.size(), 1U);
}

TEST_F(SessionTest, IdZeroBreaks) {
  submit(with_tokens(Op::kGenerate, 0, 1));
  expect_broken("request id 0");
}

TEST_F(SessionTest, ArenaPositionsGoingBackBreak) {
  submit(with_tokens(Op::kGenerate, 1, 10));
  SubmissionEntry e = with_tokens(Op::kGenerate, 2, 1);
  e.arena_begin = 9;
  submit(e);
  expect_broken("arena position 9 instead of 10");
}

TEST_F(SessionTest, ArenaPositionsRunningAheadBreak) {
  SubmissionEntry e = with_tokens(Op::kPromptPart, 1, 1);
  e.arena_begin = UINT64_MAX;
  submit(e);
  expect_broken("arena position");
}

TEST_F(SessionTest, MoreTokensThanTheArenaHoldsBreak) {
  SubmissionEntry e = with_tokens(Op::kGenerate, 1, 1);
  e.prompt_tokens = UINT32_MAX;
  e.stop_tokens = UINT32_MAX;
  submit(e);
  expect_broken("in an arena of 1024");
}

TEST_F(SessionTest, AnotherRequestInsideAPromptBreaks) {
  submit(with_tokens(Op::kPromptPart, 1, 1));
  submit(with_tokens(Op::kGenerate, 2, 1));
  expect_broken("inside the prompt of request 1");
}

TEST_F(SessionTest, AnotherOperationInsideAPromptBreaks) {
  submit(with_tokens(Op::kPromptPart, 1, 1));
  SubmissionEntry e = entry(Op::kCloseSession, 1);
  e.session_id = 3;
  submit(e);
  expect_broken("inside the prompt of request 1");
}

// ---- Room ---------------------------------------------------------------------------------------

TEST_F(SessionTest, CanTakeSaysNoBeforeTheRingIsFullAndOnSpaceFollows) {
  submit(with_tokens(Op::kGenerate, 1, 1));
  turns();
  std::size_t tokens = 0;
  while (session->can_take()) session->token(1, 1, static_cast<std::uint32_t>(tokens++), 0);
  EXPECT_EQ(tokens, kShape.completion_entries - kTokenRoom + 1);
  EXPECT_EQ(session->queued(), 0U);
  turns();
  EXPECT_EQ(sink.spaces, 0);
  EXPECT_NE(region.header().agent_wants & kWantSpace, 0U);
  EXPECT_EQ(drain().size(), tokens);
  turns();
  EXPECT_EQ(sink.spaces, 1);
  EXPECT_TRUE(session->can_take());
}

TEST_F(SessionTest, WhatDoesNotFitWaitsAndNothingIsLost) {
  submit(with_tokens(Op::kGenerate, 1, 1));
  turns();
  for (std::uint32_t i = 0; i < 30; ++i) session->token(1, static_cast<std::int32_t>(i), i, 0);
  session->finish(1, {Status::kPeerLost, "gone", 0, 0, 0, -1});
  EXPECT_FALSE(session->broken());
  EXPECT_EQ(session->queued(), 30 + 2 - kShape.completion_entries);
  std::vector<CompletionEntry> got;
  for (int i = 0; i < 10; ++i) {
    for (const auto& e : drain()) got.push_back(e);
    turns();
  }
  ASSERT_EQ(got.size(), 32U);
  for (std::uint32_t i = 0; i < 30; ++i) EXPECT_EQ(got[i].body_as<TokenBody>().position, i);
  EXPECT_EQ(got[31].status, static_cast<std::uint16_t>(Status::kPeerLost));
}

TEST_F(SessionTest, AClientThatNeverDrainsIsNotReadAnyFurther) {
  // Every refusal costs two completions or more; soon they pile up, and then reading stops.
  std::uint64_t id = 0;
  int stuck = 0;
  while (stuck < 10) {
    SubmissionEntry bad = entry(static_cast<Op>(900), ++id);
    if (submissions.push(bad)) {
      submissions.publish_ordered();
    } else {
      ++stuck;
    }
    turns();
    ASSERT_LT(id, 100U) << "the flood was read on and on";
  }
  EXPECT_FALSE(session->broken());
  EXPECT_LE(session->queued(), std::size_t{kFinalEntries});
  drain();
  turns();
  EXPECT_GT(submissions.space(8), 0U) << "and goes on once it drains";
}

TEST_F(SessionTest, AQueueBeyondWhatRequestsExplainBreaks) {
  submit(with_tokens(Op::kGenerate, 1, 1));
  turns();
  for (std::uint32_t i = 0; i < 1000 && !session->broken(); ++i) session->token(1, 1, i, 0);
  ASSERT_TRUE(session->broken());
  EXPECT_THAT(*session->broken(), HasSubstr("does not read the answers"));
  EXPECT_LT(session->queued(), 200U);
}

TEST_F(SessionTest, ProgressIsDroppedRatherThanQueued) {
  submit(with_tokens(Op::kGenerate, 1, 1));
  turns();
  for (std::uint32_t i = 0; i < 1000; ++i) session->progress(1, i, 1000);
  EXPECT_EQ(session->queued(), 0U);
  EXPECT_LE(drain().size(), kShape.completion_entries);
}

TEST_F(SessionTest, OneTurnOfAFloodIsBounded) {
  open({.vocabulary = 1000, .context = 3000, .max_requests = 3, .max_stop_tokens = 4});
  for (int i = 0; i < 8; ++i) submit(entry(Op::kCancel, 1));
  EXPECT_FALSE(session->turn(sink)) << "eight entries are fewer than a turn's worth";
  EXPECT_EQ(region.header().submission_head, 8U);
  static_assert(kEntriesPerTurn >= 8);
}

// ---- Waking -------------------------------------------------------------------------------------

TEST_F(SessionTest, AForkCountsAsMuchAsItMayCopy) {
  RequestLimits limits = kLimits;
  limits.context = kTokensPerTurn;
  open(limits);
  for (std::uint64_t id = 1; id <= 2; ++id) {
    SubmissionEntry fork = entry(Op::kForkSession, id);
    fork.session_id = 7;
    submit(fork);
  }
  EXPECT_TRUE(session->turn(sink));
  EXPECT_EQ(sink.requests.size(), 1U);
  session->turn(sink);
  EXPECT_EQ(sink.requests.size(), 2U);
}

TEST_F(SessionTest, ArmsItsWakerOnlyWhenThereIsNothingToDo) {
  turns();
  EXPECT_EQ(region.header().agent_wants, kWantEntries);
  Waker waker(&region.header().agent_wants);
  submit(with_tokens(Op::kGenerate, 1, 1));
  EXPECT_TRUE(waker.take(kWantEntries)) << "the first submission rings";
  submit(with_tokens(Op::kGenerate, 2, 1));
  EXPECT_FALSE(waker.take(kWantEntries)) << "the second need not";
  turns();
  EXPECT_EQ(sink.requests.size(), 2U);
  EXPECT_EQ(region.header().agent_wants, kWantEntries);
}

TEST_F(SessionTest, WakesASleepingClientOncePerSleep) {
  submit(with_tokens(Op::kGenerate, 1, 1));
  turns();
  session->flush();
  Sleeper sleeper(&region.header().client_wants);
  session->token(1, 1, 1, 0);
  EXPECT_FALSE(session->flush()) << "nobody sleeps";
  sleeper.want(kWantEntries);
  session->token(1, 1, 2, 0);
  session->token(1, 1, 3, 0);
  EXPECT_TRUE(session->flush());
  session->token(1, 1, 4, 0);
  EXPECT_FALSE(session->flush());
}

TEST_F(SessionTest, WakesAClientThatWaitsForSubmissionRoom) {
  Sleeper sleeper(&region.header().client_wants);
  submit(with_tokens(Op::kGenerate, 1, 1));
  sleeper.want(kWantSpace);
  turns();
  EXPECT_TRUE(session->flush());
}

}  // namespace
}  // namespace ds4::ipc::testing
