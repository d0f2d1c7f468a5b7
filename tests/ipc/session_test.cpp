// A client's memory against the agent's reading of it, without sockets: polite, wrong and hostile.
#include "ipc/server/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <numeric>

namespace ds4::ipc {
namespace {

using ::testing::HasSubstr;

const RequestLimits kLimits{
    .vocabulary = 1000, .context = 3000, .max_requests = 3, .max_stop_tokens = 4};
const RegionShape kShape{.submission_entries = 8, .completion_entries = 16, .arena_tokens = 1024};

struct Recorder final : Session::Sink {
  void on_request(Request request) override { requests.push_back(std::move(request)); }
  void on_space() override { ++spaces; }
  std::vector<Request> requests;
  int spaces = 0;
};

/// Both ends of one region: the session under test, and a client that writes what it likes.
class SessionTest : public ::testing::Test {
 protected:
  void open(const RequestLimits& limits = kLimits) {
    auto created = Region::create(kShape);
    ASSERT_TRUE(created);
    session = std::make_unique<Session>(std::move(created->region), limits);
    auto opened = Region::open(created->fd.get(), kShape.region_bytes());
    ASSERT_TRUE(opened);
    region = std::move(*opened);
    submissions = RingProducer<SubmissionEntry>(region.submissions());
    completions = RingConsumer<CompletionEntry>(region.completions());
  }
  void SetUp() override { open(); }

  static SubmissionEntry entry(Op op, std::uint64_t id) {
    SubmissionEntry e;
    e.op = static_cast<std::uint16_t>(op);
    e.request_id = id;
    if (op != Op::kGenerate) e.top_p = 0;
    return e;
  }
  /// A generate or a part whose tokens lie where they should.
  SubmissionEntry with_tokens(Op op, std::uint64_t id, std::uint32_t tokens,
                              std::int32_t value = 5) {
    SubmissionEntry e = entry(op, id);
    e.arena_begin = arena_tail;
    e.prompt_tokens = tokens;
    write_arena(tokens, value);
    return e;
  }
  void write_arena(std::uint32_t tokens, std::int32_t value) {
    for (std::uint32_t i = 0; i < tokens; ++i)
      region.arena()[(arena_tail + i) % kShape.arena_tokens] = value;
    arena_tail += tokens;
  }
  void submit(const SubmissionEntry& e) {
    ASSERT_TRUE(submissions.push(e));
    submissions.publish_ordered();
  }
  /// Turns until the session wants to sleep.
  void turns() {
    for (int i = 0; i < 1000 && session->turn(sink); ++i) {
    }
  }
  std::vector<CompletionEntry> drain() {
    session->flush();  // as the agent does at the end of its turn
    std::vector<CompletionEntry> out;
    CompletionEntry e;
    while (completions.pop(e)) out.push_back(e);
    completions.release_ordered();
    return out;
  }
  /// The final of request `id` among what the client can read, with its sentence.
  std::pair<Status, std::string> final_of(std::uint64_t id) {
    std::string sentence;
    for (const CompletionEntry& e : drain()) {
      if (e.request_id != id) continue;
      if (e.kind == static_cast<std::uint16_t>(Kind::kMessage))
        sentence.append(reinterpret_cast<const char*>(e.body.data()), e.text_bytes);
      if (e.kind == static_cast<std::uint16_t>(Kind::kFinal)) return {Status{e.status}, sentence};
    }
    return {Status::kOkClosed, "no final"};
  }
  void expect_broken(const char* why) {
    turns();
    ASSERT_TRUE(session->broken());
    EXPECT_THAT(*session->broken(), HasSubstr(why));
    EXPECT_FALSE(session->turn(sink)) << "a broken session does no more work";
  }

  std::unique_ptr<Session> session;
  Region region;
  RingProducer<SubmissionEntry> submissions;
  RingConsumer<CompletionEntry> completions;
  std::uint64_t arena_tail = 0;
  Recorder sink;
};

// ---- What a polite client gets ----------------------------------------------------------------

TEST_F(SessionTest, AGenerateArrivesWhole) {
  SubmissionEntry e = with_tokens(Op::kGenerate, 7, 3, 42);
  e.flags = kFlagLogprobs | kFlagProgress;
  e.stop_tokens = 2;
  write_arena(2, 9);
  e.max_tokens = 11;
  e.session_id = 5;
  e.temperature = 0.5F;
  e.top_k = 40;
  e.seed = 123;
  submit(e);
  turns();
  ASSERT_EQ(sink.requests.size(), 1U);
  const auto& request = std::get<GenerateRequest>(sink.requests[0]);
  EXPECT_EQ(request.id, 7U);
  EXPECT_EQ(request.prompt, (std::vector<std::int32_t>{42, 42, 42}));
  EXPECT_EQ(request.stop, (std::vector<std::int32_t>{9, 9}));
  EXPECT_EQ(request.max_tokens, 11U);
  EXPECT_EQ(request.session_id, 5U);
  EXPECT_EQ(request.sampling.temperature, 0.5F);
  EXPECT_EQ(request.sampling.top_k, 40U);
  EXPECT_EQ(request.sampling.seed, 123U);
  EXPECT_TRUE(request.logprobs);
  EXPECT_TRUE(request.progress);
  EXPECT_FALSE(request.keep_session);
}

TEST_F(SessionTest, ConsumedRoomIsShownAndTheArenaWraps) {
  for (std::uint64_t id = 1; id <= 20; ++id) {
    submit(with_tokens(Op::kGenerate, id, 300, static_cast<std::int32_t>(id)));
    turns();
    EXPECT_EQ(region.header().arena_head, id * 300);
    EXPECT_EQ(region.header().submission_head, id);
    session->finish(id, {});
    EXPECT_EQ(drain().size(), 1U);
  }
  ASSERT_EQ(sink.requests.size(), 20U);
  EXPECT_EQ(std::get<GenerateRequest>(sink.requests[19]).prompt,
            std::vector<std::int32_t>(300, 20));
}

TEST_F(SessionTest, PartsJoinIntoOnePromptBeyondTheArena) {
  for (std::int32_t part = 0; part < 4; ++part) {
    submit(with_tokens(Op::kPromptPart, 3, 512, part));
    turns();
  }
  EXPECT_TRUE(sink.requests.empty());
  submit(with_tokens(Op::kGenerate, 3, 10, 77));
  turns();
  ASSERT_EQ(sink.requests.size(), 1U);
  const auto& prompt = std::get<GenerateRequest>(sink.requests[0]).prompt;
  ASSERT_EQ(prompt.size(), 4 * 512 + 10U);
  EXPECT_EQ(prompt[512 * 3], 3);
  EXPECT_EQ(prompt.back(), 77);
}

TEST_F(SessionTest, AnswersReachTheClient) {
  submit(with_tokens(Op::kGenerate, 1, 1));
  turns();
  session->progress(1, 1, 2);
  session->token(1, 12, 34, -1.5F);
  Server::Final final;
  final.status = Status::kOkStop;
  final.stop_token = 6;
  final.generated_tokens = 1;
  final.session_id = 9;
  session->finish(1, final);
  const auto got = drain();
  ASSERT_EQ(got.size(), 3U);
  EXPECT_EQ(got[0].body_as<ProgressBody>().total, 2U);
  EXPECT_EQ(got[1].body_as<TokenBody>().token, 12);
  EXPECT_EQ(got[1].body_as<TokenBody>().position, 34U);
  EXPECT_EQ(got[1].body_as<TokenBody>().logprob, -1.5F);
  EXPECT_EQ(got[2].body_as<FinalBody>().stop_token, 6);
  EXPECT_EQ(got[2].body_as<FinalBody>().session_id, 9U);
}

TEST_F(SessionTest, NothingIsSaidAboutRequestsThatAreNotInFlight) {
  session->token(1, 1, 1, 0);
  session->progress(1, 1, 1);
  session->finish(1, {});
  submit(with_tokens(Op::kGenerate, 1, 1));
  turns();
  session->finish(1, {});
  session->finish(1, {});
  session->token(1, 1, 1, 0);
  EXPECT_EQ(drain().size(), 1U) << "one final and nothing else";
}

TEST_F(SessionTest, ErrorFinalsCarryTheirSentenceInFragments) {
  submit(with_tokens(Op::kGenerate, 1, 1));
  turns();
  Server::Final final;
  final.status = Status::kPeerLost;
  final.sentence = std::string(200, 'x') + "end";
  session->finish(1, final);
  const auto [status, sentence] = final_of(1);
  EXPECT_EQ(status, Status::kPeerLost);
  EXPECT_EQ(sentence, final.sentence);
}

TEST_F(SessionTest, AnEndlessSentenceIsCut) {
  submit(with_tokens(Op::kGenerate, 1, 1));
  turns();
  Server::Final final;
  final.status = Status::kInternal;
  final.sentence = std::string(100'000, 'x');
  session->finish(1, final);
  EXPECT_EQ(final_of(1).second.size(), kMaxMessageBytes);
}

TEST_F(SessionTest, CancelReachesTheHandlerOnlyForRequestsInFlight) {
  submit(entry(Op::kCancel, 1));
  submit(with_tokens(Op::kGenerate, 2, 1));
  submit(entry(Op::kCancel, 2));
  submit(entry(Op::kCancel, 2));
  submit(entry(Op::kCancel, 99));
  turns();
  ASSERT_EQ(sink.requests.size(), 3U);
  EXPECT_EQ(std::get<CancelRequest>(sink.requests[1]).id, 2U);
  session->finish(2, {Status::kCancelled, {}, 0, 0, 0, -1});
  submit(entry(Op::kCancel, 2));
  turns();
  EXPECT_EQ(sink.requests.size(), 3U);
  EXPECT_FALSE(session->broken());
}

TEST_F(SessionTest, CancelEndsARequestWhosePromptIsStillArriving) {
  submit(with_tokens(Op::kPromptPart, 4, 500));
  submit(entry(Op::kCancel, 4));
  turns();
  EXPECT_EQ(final_of(4).first, Status::kCancelled);
  EXPECT_TRUE(sink.requests.empty());
  submit(with_tokens(Op::kGenerate, 5, 1));
  turns();
  ASSERT_EQ(sink.requests.size(), 1U);
  EXPECT_EQ(std::get<GenerateRequest>(sink.requests[0]).prompt.size(), 1U) << "nothing left over";
}

TEST_F(SessionTest, CloseSessionArrives) {
  SubmissionEntry e = entry(Op::kCloseSession, 1);
  e.session_id = 44;
  submit(e);
  turns();
  ASSERT_EQ(sink.requests.size(), 1U);
  EXPECT_EQ(std::get<CloseSessionRequest>(sink.requests[0]).session_id, 44U);
  EXPECT_EQ(session->requests_in_flight(), 1U);
}

// ---- What a wrong but honest client gets: a final that says why ---------------------------------

TEST_F(SessionTest, RefusalsKeepTheConnectionAndTheArenaInStep) {
  SubmissionEntry bad = with_tokens(Op::kGenerate, 1, 10);
  bad.temperature = -1;
  submit(bad);
  bad = with_tokens(Op::kGenerate, 2, 10, 1000);  // outside the vocabulary
  submit(bad);
  bad = with_tokens(Op::kGenerate, 3, 10);
  bad.stop_tokens = 5;  // one more than allowed
  write_arena(5, 1);
  submit(bad);
  submit(entry(Op::kCloseSession, 4));
  submit(with_tokens(Op::kGenerate, 5, 10, 8));
  turns();
  ASSERT_EQ(sink.requests.size(), 1U);
  EXPECT_EQ(std::get<GenerateRequest>(sink.requests[0]).prompt, std::vector<std::int32_t>(10, 8));
  EXPECT_FALSE(session->broken());
  EXPECT_EQ(session->requests_in_flight(), 1U);
}

TEST_F(SessionTest, APromptBeyondTheContextIsRefusedWithoutBeingHeld) {
  std::uint64_t sent = 0;
  while (sent < 100'000) {
    submit(with_tokens(Op::kPromptPart, 1, 1000));
    turns();
    sent += 1000;
    ASSERT_FALSE(session->broken());
  }
  submit(with_tokens(Op::kGenerate, 1, 1));
  turns();
  const auto [status, sentence] = final_of(1);
  EXPECT_EQ(status, Status::kOutOfRange);
  EXPECT_THAT(sentence, HasSubstr("the context holds 3000"));
  EXPECT_TRUE(sink.requests.empty());
}

TEST_F(SessionTest, MoreRequestsThanAllowedAreBusy) {
  for (std::uint64_t id = 1; id <= 4; ++id) submit(with_tokens(Op::kGenerate, id, 1));
  turns();
  EXPECT_EQ(sink.requests.size(), 3U);
  EXPECT_EQ(final_of(4).first, Status::kBusy);
  session->finish(2, {});
  submit(with_tokens(Op::kGenerate, 5, 1));
  turns();
  EXPECT_EQ(sink.requests.size(), 4U);
}

TEST_F(SessionTest, WithoutAModelEveryRequestIsNotReady) {
  open({.vocabulary = 0, .context = 0, .max_requests = 3, .max_stop_tokens = 4});
  submit(with_tokens(Op::kGenerate, 1, 1));
  SubmissionEntry e = entry(Op::kCloseSession, 2);
  e.session_id = 1;
  submit(e);
  turns();
  EXPECT_EQ(final_of(1).first, Status::kRouteNotReady);
  EXPECT_TRUE(sink.requests.empty());
  EXPECT_FALSE(session->broken());
}

TEST_F(SessionTest, ANewSessionNeedsAPrompt) {
  submit(with_tokens(Op::kGenerate, 1, 0));
  SubmissionEntry continued = with_tokens(Op::kGenerate, 2, 0);
  continued.session_id = 5;
  submit(continued);
  turns();
  EXPECT_EQ(final_of(1).first, Status::kInvalid);
  EXPECT_EQ(sink.requests.size(), 1U);
}

TEST_F(SessionTest, UnknownOperationsAreRefusedByName) {
  submit(entry(static_cast<Op>(900), 1));
  turns();
  const auto [status, sentence] = final_of(1);
  EXPECT_EQ(status, Status::kInvalid);
  EXPECT_THAT(sentence, HasSubstr("operation 900"));
}

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
}  // namespace ds4::ipc
