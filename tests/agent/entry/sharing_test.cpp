// Sessions that are copied, and an agent that several users share.
#include <gmock/gmock.h>

#include "tests/agent/entry/fake_port.h"

namespace ds4::agent::test {
namespace {

using ipc::Status;

constexpr ipc::ClientId kOther = 11;  // of another user than client 1

void fork(Bench& bench, ipc::ClientId client, std::uint64_t id, std::uint64_t session) {
  bench.entry.on_request(client, ipc::ForkSessionRequest{id, session});
}

TEST(EntryFork, TheCopyGoesOnWhereItsSourceIsWithoutBeingFedAgain) {
  Bench bench;
  const auto source = bench.kept_session(1, 1, count_from(1, 5));
  fork(bench, 1, 2, source);
  ASSERT_EQ(bench.port.forks.size(), 1U);
  const wire::ForkItem item = bench.port.forks[0];
  EXPECT_EQ(item.position, 5U) << "the answer's token was not fed yet";
  const auto copy = bench.final(1, 2);
  EXPECT_EQ(copy.status, Status::kOkForked);
  ASSERT_NE(copy.session_id, source);

  bench.ask(1, bench.keeping(3, {}, copy.session_id));
  const wire::WorkItem work = bench.take();
  EXPECT_EQ(work.session, item.target);
  EXPECT_EQ(work.first_position, 5U);
  EXPECT_EQ(work.prefix_hash, item.prefix_hash);
  EXPECT_THAT(work.tokens, ::testing::ElementsAre(7));
  bench.ask(1, bench.keeping(4, {}, source));
  EXPECT_EQ(bench.take().session, item.source) << "the source has kept its own";
}

TEST(EntryFork, ACopyThatNoStageCouldMakeIsFedFromTheBeginning) {
  Bench bench;
  const auto source = bench.kept_session(1, 1, count_from(1, 5));
  fork(bench, 1, 2, source);
  bench.entry.on_error(
      {0, 1, {bench.port.forks.at(0).target}, ErrorCode::kResourceExhausted, "no memory"});
  bench.ask(1, bench.keeping(3, {}, bench.final(1, 2).session_id));
  const wire::WorkItem work = bench.take();
  EXPECT_EQ(work.first_position, 0U);
  EXPECT_EQ(work.tokens.size(), 6U);
}

TEST(EntryFork, OfALostRouteCopiesTheTokens) {
  Bench bench;
  const auto source = bench.kept_session(1, 1, count_from(1, 5));
  bench.route(2);  // another route holds nothing
  fork(bench, 1, 2, source);
  EXPECT_TRUE(bench.port.forks.empty());
  bench.ask(1, bench.keeping(3, {}, bench.final(1, 2).session_id));
  EXPECT_EQ(bench.take().tokens.size(), 6U);
}

TEST(EntryFork, IsRefusedWhileTheSourceAnswersAndForSessionsOfOthers) {
  Bench bench;
  const auto source = bench.kept_session(1, 1, {1, 2});
  bench.ask(1, bench.keeping(2, {3}, source));
  fork(bench, 1, 3, source);
  EXPECT_EQ(bench.final(1, 3).status, Status::kBusy);
  fork(bench, 2, 4, source);
  EXPECT_EQ(bench.final(2, 4).status, Status::kUnknownSession);
  EXPECT_EQ(bench.entry.sessions(), 1U);
}

TEST(EntryUsers, OneCannotTakeEverySession) {
  EntryConfig config = small_config();
  config.max_sessions_per_user = 2;
  Bench bench(config);
  const auto kept = bench.kept_session(1, 1, {1});
  bench.kept_session(2, 1, {1});  // another program of the same user
  bench.ask(1, bench.request(2, {1}));
  EXPECT_EQ(bench.final(1, 2).status, Status::kBusy);
  fork(bench, 1, 3, kept);
  EXPECT_EQ(bench.final(1, 3).status, Status::kBusy);
  bench.ask(kOther, bench.request(1, {1}));
  EXPECT_FALSE(bench.ended(kOther, 1));
  bench.close(1, 4, kept);
  bench.ask(1, bench.request(5, {1}));
  EXPECT_FALSE(bench.ended(1, 5));
}

TEST(EntryUsers, OnesTokensAreBounded) {
  EntryConfig config = small_config();
  config.max_tokens_per_user = 20;
  Bench bench(config);
  const auto kept = bench.kept_session(1, 1, count_from(0, 15));  // 16 with its answer
  bench.ask(2, bench.request(1, count_from(0, 10)));
  EXPECT_EQ(bench.final(2, 1).status, Status::kBusy);
  bench.close(1, 2, kept);
  bench.ask(2, bench.request(2, count_from(0, 10)));
  EXPECT_FALSE(bench.ended(2, 2));
}

TEST(EntryUsers, TakeTurnsWithTheirPrefillHoweverManyProgramsTheyHave) {
  EntryConfig config = small_config();
  config.chunks_in_flight = 1;
  config.tokens_in_flight = 10;
  Bench bench(config);
  for (ipc::ClientId client = 1; client < 9; ++client)
    bench.ask(client, bench.request(1, count_from(0, 10)));
  bench.ask(kOther, bench.request(1, count_from(20, 10)));
  bench.answer(bench.take());  // was under way before the other came
  std::size_t chunks = 0;
  while (bench.port.work.front().tokens[0] != 20 && chunks < 10) {
    if (bench.port.work.front().tokens.size() > 1) ++chunks;
    bench.answer(bench.take());
  }
  EXPECT_LE(chunks, 1U) << "the other user waited for more than one prompt";
}

TEST(EntryUsers, TakeTurnsWithTheirDecodeStepsOnceThereAreTwo) {
  EntryConfig config = small_config();
  config.steps_in_flight = 1;
  Bench bench(config);
  for (const ipc::ClientId client : {1, 2, 3}) {
    ipc::GenerateRequest request = bench.request(1, {static_cast<std::int32_t>(client)});
    request.max_tokens = 50;
    bench.ask(client, request);
  }
  for (int i = 0; i < 3; ++i) bench.answer(bench.take());
  EXPECT_EQ(bench.port.work.size(), 3U) << "one user alone is not held back";
  ipc::GenerateRequest request = bench.request(1, {9});
  request.max_tokens = 50;
  bench.ask(kOther, request);
  int others = 0;
  for (int i = 0; i < 3 + 1 + 20; ++i) {  // what was under way, then turn by turn
    const wire::WorkItem item = bench.take();
    const std::size_t before = bench.tokens(kOther, 1).size();
    bench.answer(item);
    const bool is_others = bench.tokens(kOther, 1).size() != before;
    if (i >= 4) others += is_others;
  }
  EXPECT_GE(others, 9);
  EXPECT_LE(others, 11);
}

TEST(EntryUsers, AClientWithSixteenSessionsDoesNotStarveOneWithOne) {
  constexpr std::size_t kMany = 16;
  for (const ipc::ClientId few : {ipc::ClientId{2}, kOther}) {  // of the same user, and of another
    EntryConfig config = small_config();
    config.tokens_in_flight = 20;
    config.steps_in_flight = 4;
    Bench bench(config);
    for (std::uint64_t id = 1; id <= kMany; ++id)
      bench.ask(1, bench.request(id, count_from(0, 60)));
    auto single = bench.request(1, count_from(0, 30));
    single.max_tokens = 10;
    bench.ask(few, single);
    // Work that the route has to do before the single answer's next sign of life.
    std::size_t since = 0;
    std::size_t worst_prompt = 0;
    std::size_t worst_step = 0;
    std::size_t seen = 0;
    std::optional<std::uint64_t> session;
    while (!bench.ended(few, 1) && since < 500) {
      const wire::WorkItem item = bench.take();
      ++since;
      bench.answer(item);
      // The one whose prompt has 30 tokens asks for the least room.
      if (item.context == 40) session = item.session;
      if (session == item.session) {
        std::size_t& worst = seen < 3 ? worst_prompt : worst_step;
        worst = std::max(worst, since);
        since = 0;
        ++seen;
      }
    }
    EXPECT_EQ(bench.tokens(few, 1).size(), 10U) << few;
    // Two chunks are under way when it comes, then they alternate.
    EXPECT_LE(worst_prompt, 4U) << few;
    // At most a step of everybody, and what prefill is under way.
    EXPECT_LE(worst_step, kMany + 4) << few;
  }
}

}  // namespace
}  // namespace ds4::agent::test
