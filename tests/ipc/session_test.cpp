// A client's memory as the agent reads it, without sockets: what polite and what wrong programs
// get.
#include "tests/ipc/session_fixture.h"

namespace ds4::ipc::testing {
namespace {

using ::testing::HasSubstr;

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

}  // namespace
}  // namespace ds4::ipc::testing
