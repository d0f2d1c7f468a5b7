// From a request to its answer, while nothing goes wrong.
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
using ::testing::IsEmpty;

TEST(Entry, APromptIsFedInChunksThatContinueEachOther) {
  Bench bench;
  bench.entry_index = 3;
  bench.route(2);
  const auto prompt = count_from(1, 25);
  ipc::GenerateRequest request = Bench::keeping(1, prompt);
  request.sampling = {0.5F, 0.9F, 0.1F, 40, 99};
  bench.ask(1, request);
  std::vector<std::int32_t> fed;
  for (const std::size_t size : {10U, 10U, 5U}) {
    const wire::WorkItem item = bench.take();
    EXPECT_EQ(item.tokens.size(), size);
    EXPECT_EQ(item.first_position, fed.size());
    EXPECT_EQ(item.prefix_hash, wire::extend_hash(0, fed));
    EXPECT_EQ(item.context, 100U);
    EXPECT_EQ(item.entry, 3U);
    EXPECT_EQ(item.sample.has_value(), size == 5);
    if (item.sample) {
      EXPECT_EQ(*item.sample, (SamplingParams{0.5F, 0.9F, 0.1F, 40, 99}));
    }
    fed.insert(fed.end(), item.tokens.begin(), item.tokens.end());
    bench.answer(item);
  }
  EXPECT_EQ(fed, prompt);
  EXPECT_THAT(bench.tokens(1, 1), ElementsAre(7));
}

TEST(Entry, OnlySoManyChunksOfASessionAreInFlight) {
  Bench bench;
  bench.ask(1, Bench::request(1, count_from(1, 50)));
  EXPECT_EQ(bench.port.work.size(), 2U);
  const wire::WorkItem first = bench.take();
  // A stage may run an item in parts; a part does not make room.
  bench.entry.on_outcome({first.session, 4, -1, 0});
  EXPECT_EQ(bench.port.work.size(), 1U);
  bench.answer(first);
  EXPECT_EQ(bench.port.work.size(), 2U);
  // Acknowledging a later position acknowledges what is before it.
  bench.entry.on_outcome({first.session, 30, -1, 0});
  EXPECT_EQ(bench.port.work.size(), 4U);
}

TEST(Entry, ThereIsAChunkForEachStageAndOneOnItsWay) {
  Bench bench;
  bench.entry.on_route({.ready = true, .state = ipc::RouteState::kReady, .serial = 1, .reason = {}, .stages = 3});
  bench.ask(1, bench.request(1, count_from(0, 90)));
  EXPECT_EQ(bench.port.work.size(), 4U);
  bench.answer(bench.take());
  EXPECT_EQ(bench.port.work.size(), 4U);
}

TEST(Entry, DecodeGoesTokenByTokenUntilTheWantedLength) {
  Bench bench;
  ipc::GenerateRequest request = Bench::request(1, {1, 2, 3});
  request.max_tokens = 3;
  bench.ask(1, request);
  bench.answer(bench.take(), 40);
  for (std::uint32_t i = 0; i < 2; ++i) {
    const wire::WorkItem step = bench.take();
    EXPECT_THAT(step.tokens, ElementsAre(static_cast<std::int32_t>(40 + i)));
    EXPECT_EQ(step.first_position, 3 + i);
    EXPECT_EQ(step.prefix_hash,
              wire::extend_hash(0, i == 0 ? std::vector<std::int32_t>{1, 2, 3}
                                          : std::vector<std::int32_t>{1, 2, 3, 40}));
    EXPECT_TRUE(step.sample);
    EXPECT_TRUE(bench.port.work.empty());
    bench.answer(step, static_cast<std::int32_t>(41 + i));
  }
  EXPECT_THAT(bench.tokens(1, 1), ElementsAre(40, 41, 42));
  const auto& delivered = bench.port.tokens[{1, 1}];
  for (std::uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(delivered[i].position, 3 + i);
    EXPECT_EQ(delivered[i].logprob, 0);  // not asked for
  }
  const auto& final = bench.final(1, 1);
  EXPECT_EQ(final.status, Status::kOkLength);
  EXPECT_EQ(final.prompt_tokens, 3U);
  EXPECT_EQ(final.generated_tokens, 3U);
  EXPECT_EQ(final.session_id, 0U);
  EXPECT_EQ(final.stop_token, -1);
  EXPECT_TRUE(bench.port.work.empty());
  EXPECT_EQ(bench.port.closed.size(), 1U);
  EXPECT_EQ(bench.entry.sessions(), 0U);
  EXPECT_EQ(bench.entry.active_requests(), 0U);
}

TEST(Entry, LogProbabilitiesAreDeliveredWhereAskedFor) {
  Bench bench;
  ipc::GenerateRequest request = Bench::request(1, {1});
  request.logprobs = true;
  bench.ask(1, request);
  bench.answer(bench.take());
  EXPECT_EQ((bench.port.tokens[{1, 1}][0].logprob), -0.5F);
}

TEST(Entry, AStopTokenEndsTheAnswerAndIsNotDelivered) {
  Bench bench;
  ipc::GenerateRequest request = Bench::request(1, {1, 2});
  request.stop = {50, 51};
  bench.ask(1, request);
  bench.answer(bench.take(), 40);
  bench.answer(bench.take(), 51);
  EXPECT_THAT(bench.tokens(1, 1), ElementsAre(40));
  const auto& final = bench.final(1, 1);
  EXPECT_EQ(final.status, Status::kOkStop);
  EXPECT_EQ(final.stop_token, 51);
  EXPECT_EQ(final.generated_tokens, 1U);
}

TEST(Entry, TheContextsEndEndsTheAnswer) {
  EntryConfig config = small_config();
  config.context = 8;
  Bench bench(config);
  bench.ask(1, Bench::request(1, count_from(1, 5)));
  bench.run();
  EXPECT_EQ(bench.tokens(1, 1).size(), 3U);
  EXPECT_EQ(bench.final(1, 1).status, Status::kOkLength);
  EXPECT_EQ((bench.port.tokens[{1, 1}].back().position), 7U);
}

TEST(Entry, APromptMustLeaveRoomForAnAnswer) {
  EntryConfig config = small_config();
  config.context = 8;
  Bench bench(config);
  bench.ask(1, Bench::request(1, count_from(1, 8)));
  EXPECT_EQ(bench.final(1, 1).status, Status::kOutOfRange);
  EXPECT_THAT(bench.final(1, 1).sentence, HasSubstr("has 8 tokens, but the context holds 8"));
  bench.ask(1, Bench::request(2, count_from(1, 7)));
  bench.run();
  EXPECT_EQ(bench.final(1, 2).status, Status::kOkLength);
  EXPECT_EQ(bench.tokens(1, 2).size(), 1U);
}

TEST(Entry, ANewSessionNeedsAPrompt) {
  Bench bench;
  bench.ask(1, Bench::request(1, {}));
  EXPECT_EQ(bench.final(1, 1).status, Status::kInvalid);
  EXPECT_EQ(bench.entry.sessions(), 0U);
}

TEST(Entry, ProgressCountsAcknowledgedPromptTokens) {
  Bench bench;
  ipc::GenerateRequest request = Bench::request(1, count_from(1, 25));
  request.progress = true;
  request.max_tokens = 2;
  bench.ask(1, request);
  const wire::WorkItem first = bench.take();
  bench.entry.on_outcome({first.session, 4, -1, 0});
  bench.answer(first);
  bench.answer(first);  // what was counted is not counted again
  bench.run();
  EXPECT_THAT((bench.port.progresses[{1, 1}]),
              ElementsAre(std::pair(4U, 25U), std::pair(10U, 25U), std::pair(20U, 25U),
                          std::pair(25U, 25U)));
  bench.ask(1, Bench::request(2, count_from(1, 25)));
  bench.run();
  EXPECT_THAT((bench.port.progresses[{1, 2}]), IsEmpty());  // not asked for
}

TEST(Entry, ProgressOfAContinuedSessionIsOfItsOwnPrompt) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, count_from(1, 20));
  ipc::GenerateRequest request = Bench::request(2, count_from(60, 12), session);
  request.progress = true;
  bench.ask(1, request);
  bench.answer(bench.take());
  bench.answer(bench.take());
  EXPECT_THAT((bench.port.progresses[{1, 2}]),
              ElementsAre(std::pair(9U, 12U), std::pair(12U, 12U)));
}

TEST(Entry, ASessionThatEndsWithItsRequestAsksForNoMoreRoomThanThat) {
  Bench bench;
  ipc::GenerateRequest request = Bench::request(1, count_from(1, 25));
  request.max_tokens = 5;
  bench.ask(1, request);
  EXPECT_EQ(bench.take().context, 30U);
  bench.take();
  request.id = 2;
  request.max_tokens = 4000000000;
  bench.ask(1, request);
  EXPECT_EQ(bench.take().context, 100U);
  bench.take();
  // A kept one may go on to the end.
  request.id = 3;
  request.max_tokens = 5;
  request.keep_session = true;
  bench.ask(1, request);
  EXPECT_EQ(bench.take().context, 100U);
}

// ---- continuing ------------------------------------------------------------------------------

TEST(Entry, AContinuedSessionIsFedItsLastTokenAndTheNewPrompt) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, {1, 2, 3});
  ASSERT_NE(session, 0U);
  EXPECT_EQ(bench.entry.sessions(), 1U);
  EXPECT_TRUE(bench.port.closed.empty());
  ipc::GenerateRequest request = Bench::keeping(2, {20, 21}, session);
  request.max_tokens = 1;
  bench.ask(1, request);
  const wire::WorkItem item = bench.take();
  EXPECT_THAT(item.tokens, ElementsAre(7, 20, 21));
  EXPECT_EQ(item.first_position, 3U);
  EXPECT_EQ(item.prefix_hash, wire::extend_hash(0, count_from(1, 3)));
  bench.answer(item, 8);
  EXPECT_EQ((bench.port.tokens[{1, 2}][0].position), 6U);
  EXPECT_EQ(bench.final(1, 2).session_id, session);
  EXPECT_EQ(bench.final(1, 2).prompt_tokens, 2U);
}

TEST(Entry, AnEmptyPromptGoesOnFromTheLastToken) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, {1, 2, 3});
  bench.ask(1, Bench::request(2, {}, session));
  const wire::WorkItem item = bench.take();
  EXPECT_THAT(item.tokens, ElementsAre(7));
  EXPECT_EQ(item.first_position, 3U);
  EXPECT_TRUE(item.sample);
  bench.answer(item, 8);
  EXPECT_THAT(bench.tokens(1, 2), ElementsAre(8));
}

TEST(Entry, TheStopTokenStaysInAKeptSession) {
  Bench bench;
  ipc::GenerateRequest request = Bench::keeping(1, {1, 2});
  request.stop = {50};
  bench.ask(1, request);
  bench.answer(bench.take(), 50);
  bench.ask(1, Bench::request(2, {20}, bench.final(1, 1).session_id));
  EXPECT_THAT(bench.take().tokens, ElementsAre(50, 20));
}

TEST(Entry, AContinuedSessionEndsWhereItIsNotKeptAgain) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, {1, 2, 3});
  ipc::GenerateRequest request = Bench::request(2, {20}, session);
  request.max_tokens = 1;
  bench.ask(1, request);
  bench.run();
  EXPECT_EQ(bench.final(1, 2).session_id, 0U);
  EXPECT_EQ(bench.entry.sessions(), 0U);
  EXPECT_EQ(bench.port.closed.size(), 1U);
}

TEST(Entry, OnlyTheClientsOwnSessionsContinue) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, {1, 2, 3});
  bench.ask(2, Bench::request(1, {5}, session));
  EXPECT_EQ(bench.final(2, 1).status, Status::kUnknownSession);
  EXPECT_EQ(bench.final(2, 1).session_id, 0U);
  bench.ask(1, Bench::request(2, {5}, session + 1000));
  EXPECT_EQ(bench.final(1, 2).status, Status::kUnknownSession);
  EXPECT_THAT(bench.final(1, 2).sentence, HasSubstr(std::to_string(session + 1000)));
}

TEST(Entry, ASessionThatWouldOutgrowTheContextSaysByHowMuch) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, count_from(1, 59));
  bench.ask(1, Bench::request(2, count_from(1, 40), session));
  const auto& final = bench.final(1, 2);
  EXPECT_EQ(final.status, Status::kOutOfRange);
  EXPECT_THAT(final.sentence,
              HasSubstr("has 40 tokens and the session holds 60, but the context holds 100"));
  EXPECT_EQ(final.session_id, session);  // it lives on
  bench.ask(1, Bench::request(3, count_from(1, 39), session));
  EXPECT_FALSE(bench.ended(1, 3));
}

TEST(Entry, ASessionAnswersOneRequestAtATime) {
  Bench bench;
  const std::uint64_t session = bench.kept_session(1, 1, {1, 2, 3});
  bench.ask(1, Bench::keeping(2, {5}, session));
  bench.ask(1, Bench::keeping(3, {6}, session));
  EXPECT_EQ(bench.final(1, 3).status, Status::kBusy);
  EXPECT_THAT(bench.final(1, 3).sentence, HasSubstr("request 2"));
  EXPECT_EQ(bench.final(1, 3).session_id, session);
  EXPECT_FALSE(bench.ended(1, 2));
}

// ---- limits and fairness ---------------------------------------------------------------------

TEST(Entry, TooManySessionsAreRefusedUntilOneEnds) {
  EntryConfig config = small_config();
  config.max_sessions = 2;
  Bench bench(config);
  const std::uint64_t kept = bench.kept_session(1, 1, {1});
  bench.ask(2, Bench::request(1, {1}));
  bench.ask(3, Bench::request(1, {1}));
  EXPECT_EQ(bench.final(3, 1).status, Status::kBusy);
  EXPECT_THAT(bench.final(3, 1).sentence, HasSubstr("all 2 sessions"));
  bench.ask(1, Bench::keeping(2, {1}, kept));  // an existing one is no new one
  EXPECT_FALSE(bench.ended(1, 2));
  bench.cancel(2, 1);
  bench.ask(3, Bench::request(2, {1}));
  EXPECT_FALSE(bench.ended(3, 2));
}

TEST(Entry, ClientsTakeTurnsWithTheirPrefill) {
  EntryConfig config = small_config();
  config.tokens_in_flight = 10;  // one chunk at a time
  Bench bench(config);
  for (std::uint64_t id = 1; id <= 5; ++id) bench.ask(1, Bench::request(id, count_from(10, 30)));
  bench.ask(2, Bench::request(1, count_from(50, 30)));
  std::string order;
  for (int i = 0; i < 6; ++i) {
    ASSERT_EQ(bench.port.work.size(), 1U);
    const wire::WorkItem item = bench.take();
    order += item.tokens[0] >= 50 ? 'b' : 'a';
    bench.answer(item);
    if (bench.port.work.empty()) break;
  }
  EXPECT_EQ(order, "aababa");  // the first client's turn came before the second client did
}

TEST(Entry, PrefillOfAllSessionsTogetherIsBounded) {
  EntryConfig config = small_config();
  config.tokens_in_flight = 25;
  Bench bench(config);
  for (ipc::ClientId client = 1; client <= 9; ++client) {
    bench.ask(client, Bench::request(1, count_from(1, 20)));
  }
  std::size_t tokens = 0;
  for (const auto& item : bench.port.work) tokens += item.tokens.size();
  EXPECT_EQ(tokens, 30U);  // the bound is reached by whole chunks
  bench.cancel(1, 1);      // what is cancelled makes room
  EXPECT_GT(bench.port.work.size(), 3U);
  // Every prompt comes to its turn, and nothing is lost from the count.
  std::size_t first_tokens = 0;
  for (int i = 0; i < 1000 && first_tokens < 8; ++i) {
    const wire::WorkItem item = bench.take();
    if (bench.port.closed.contains(item.session)) continue;
    bench.answer(item);
    first_tokens = 0;
    for (ipc::ClientId client = 2; client <= 9; ++client) {
      first_tokens += !bench.tokens(client, 1).empty();
    }
  }
  EXPECT_EQ(first_tokens, 8U);
}

TEST(Entry, DecodeStepsDoNotWaitForPrefillsTurn) {
  EntryConfig config = small_config();
  config.tokens_in_flight = 10;
  Bench bench(config);
  bench.ask(1, Bench::request(1, {1}));
  bench.answer(bench.take());
  const wire::WorkItem step = bench.take();
  bench.ask(2, Bench::request(1, count_from(1, 50)));
  bench.ask(3, Bench::request(1, count_from(1, 50)));
  EXPECT_EQ(bench.port.work.size(), 1U);
  bench.answer(step);
  EXPECT_EQ(bench.port.work.back().session, step.session);
}

TEST(Entry, SessionIdsAreNeverZeroAndDifferByTheirBase) {
  EntryConfig config = small_config();
  config.session_base = ~0ULL - 1;
  Bench bench(config);
  std::set<std::uint64_t> ids;
  for (std::uint64_t id = 1; id <= 5; ++id) {
    bench.ask(1, Bench::keeping(id, {1}));
    ids.insert(bench.take().session);
  }
  EXPECT_EQ(ids.size(), 5U);
  EXPECT_FALSE(ids.contains(0));
  Bench other;
  other.ask(1, Bench::keeping(1, {1}));
  EXPECT_NE(other.take().session, *ids.rbegin());
}

TEST(Entry, ASlowClientPausesItsOwnDecode) {
  Bench bench;
  bench.ask(1, Bench::request(1, {1}));
  bench.ask(2, Bench::request(1, {2}));
  const wire::WorkItem slow = bench.take();
  const wire::WorkItem quick = bench.take();
  bench.port.full.insert(1);
  bench.answer(slow, 40);
  EXPECT_TRUE(bench.port.work.empty());
  bench.answer(quick, 41);
  EXPECT_THAT(bench.take().tokens, ElementsAre(41));
  bench.entry.on_space(1);  // still full: it stays paused
  EXPECT_TRUE(bench.port.work.empty());
  bench.port.full.clear();
  bench.entry.on_space(2);  // not the one
  EXPECT_TRUE(bench.port.work.empty());
  bench.entry.on_space(1);
  EXPECT_THAT(bench.take().tokens, ElementsAre(40));
  bench.entry.on_space(1);
  EXPECT_TRUE(bench.port.work.empty());
}

}  // namespace
}  // namespace ds4::agent
