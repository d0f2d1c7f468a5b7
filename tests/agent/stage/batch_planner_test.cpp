#include "agent/stage/batch_planner.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/agent/stage/virtual_route.h"

namespace ds4::agent {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using test::VirtualRoute;
using Time = VirtualRoute::Time;

/// As a small model has it: a fifth of a row's cost is the batch's own.
Time small_model(std::uint32_t rows) {
  return microseconds(25 + 100 * rows);
}

TEST(BatchPlanner, EightSessionsOverTwoStagesAreTwoGroupsAndBothStagesWork) {
  VirtualRoute route({.stages = 2, .cost = small_model});
  for (std::uint64_t session = 1; session <= 8; ++session) route.ask(session, 4, 200, Time(0));
  route.run();
  std::size_t groups_of_four = 0;
  std::size_t decoding = 0;
  for (const auto& batch : route.batches()) {
    if (batch.stage != 0 || batch.decode_rows == 0) continue;
    ++decoding;
    groups_of_four += batch.decode_rows == 4;
    EXPECT_LE(batch.decode_rows, 4U);
  }
  EXPECT_GE(groups_of_four * 100, decoding * 95);
  // In one convoy of eight each stage would be idle half of the time.
  EXPECT_GT(route.busy_share(0), 0.75);
  EXPECT_GT(route.busy_share(1), 0.75);
}

TEST(BatchPlanner, ThreeStagesGetThreeGroups) {
  VirtualRoute route({.stages = 3, .cost = small_model});
  for (std::uint64_t session = 1; session <= 12; ++session) route.ask(session, 1, 200, Time(0));
  route.run();
  for (std::uint32_t stage = 0; stage < 3; ++stage)
    EXPECT_GT(route.busy_share(stage), 0.7) << stage;
}

TEST(BatchPlanner, TwoSessionsThatMetGoApartAgain) {
  VirtualRoute route({.stages = 2, .cost = small_model});
  route.ask(1, 1, 50, Time(0));
  route.ask(2, 1, 50, Time(0));
  route.run();
  for (const auto& batch : route.batches()) {
    if (batch.stage != 0) continue;
    EXPECT_EQ(batch.decode_rows, 1U);
  }
}

TEST(BatchPlanner, OneStageRunsEverybodyTogether) {
  VirtualRoute route({.stages = 1, .cost = small_model});
  for (std::uint64_t session = 1; session <= 8; ++session) route.ask(session, 1, 20, Time(0));
  route.run();
  EXPECT_EQ(route.batches().size(), 20U);
}

TEST(BatchPlanner, SessionsThatEndMakeTheGroupsOfTheOthersSmaller) {
  VirtualRoute route({.stages = 2, .cost = small_model});
  for (std::uint64_t session = 1; session <= 6; ++session) route.ask(session, 1, 10, Time(0));
  route.ask(7, 1, 100, Time(0));
  route.ask(8, 1, 100, Time(0));
  route.run();
  for (auto batch = route.batches().end() - 60; batch != route.batches().end(); ++batch) {
    EXPECT_EQ(batch->decode_rows, 1U);
  }
}

// ---- nobody who decodes waits long for a prompt ------------------------------------------------

/// Longest gap between the tokens of a session beside a prompt of 1,500 tokens, and without it.
struct Gaps {
  Time quiet{};
  Time beside{};
};

Gaps gaps_beside_a_prompt(const VirtualRoute::Shape& shape) {
  Gaps gaps;
  VirtualRoute quiet(shape);
  quiet.ask(1, 4, 2000, Time(0));
  quiet.run();
  gaps.quiet = quiet.longest_gap(1);
  VirtualRoute both(shape);
  both.ask(1, 4, 2000, Time(0));
  both.ask(2, 1500, 1, milliseconds(50));
  both.run();
  EXPECT_EQ(both.tokens().size(), 2001U);
  gaps.beside = both.longest_gap(1);
  return gaps;
}

TEST(BatchPlanner, ATokenComesAtMostTheDecodeWaitLaterBesideAPrompt) {
  for (const std::uint32_t stages : {1U, 2U, 3U}) {
    for (const int wait_ms : {20, 50, 100, 400}) {
      const Gaps gaps = gaps_beside_a_prompt(
          {.stages = stages, .decode_wait = milliseconds(wait_ms), .cost = small_model});
      EXPECT_LE(gaps.beside, gaps.quiet + milliseconds(wait_ms)) << stages << ", " << wait_ms;
      EXPECT_GT(gaps.beside, gaps.quiet);
    }
  }
}

TEST(BatchPlanner, WithoutADecodeWaitAPromptTakesWholeBatches) {
  const Gaps gaps = gaps_beside_a_prompt(
      {.stages = 1, .max_rows = 512, .decode_wait = milliseconds(0), .cost = small_model});
  EXPECT_GT(gaps.beside, milliseconds(50));
}

TEST(BatchPlanner, NoBatchBesideADecodeStepTakesMoreRowsThanFit) {
  const milliseconds wait{40};
  VirtualRoute route({.stages = 1, .decode_wait = wait, .cost = small_model});
  for (std::uint64_t session = 1; session <= 4; ++session) route.ask(session, 4, 500, Time(0));
  for (std::uint64_t session = 5; session <= 8; ++session) {
    route.ask(session, 1500, 1, milliseconds(20));
  }
  route.run();
  for (const auto& batch : route.batches()) {
    if (batch.begin < milliseconds(20)) continue;
    if (batch.begin > route.tokens()[2000].at) break;  // nobody decodes any more
    EXPECT_LE(batch.end - batch.begin, wait / 2);
  }
}

/// A wait of a few milliseconds on a machine where one row takes twenty.
TEST(BatchPlanner, AWaitThatCannotBeKeptDoesNotStarveThePrompt) {
  const auto slow = [](std::uint32_t rows) { return milliseconds(18 + 2 * rows); };
  const VirtualRoute::Shape shape{.stages = 1, .decode_wait = milliseconds(5), .cost = slow};
  VirtualRoute both(shape);
  both.ask(1, 4, 400, Time(0));
  both.ask(2, 1500, 1, milliseconds(50));
  both.run();
  const auto prompt_done = std::find_if(both.tokens().begin(), both.tokens().end(),
                                        [](const auto& token) { return token.session == 2; });
  ASSERT_NE(prompt_done, both.tokens().end());
  EXPECT_LT(prompt_done->at, milliseconds(10'000)) << "row by row it would be 30 s";
  EXPECT_LE(both.longest_gap(1), 2 * 4 * slow(1) + slow(1));
}

TEST(BatchPlanner, ALateDecoderFindsOneLongBatchAtMost) {
  VirtualRoute route({.stages = 1, .decode_wait = milliseconds(20), .cost = small_model});
  route.ask(2, 5000, 1, Time(0));
  route.ask(1, 1, 100, milliseconds(1));
  route.run();
  const auto first = std::find_if(route.tokens().begin(), route.tokens().end(),
                                  [](const auto& token) { return token.session == 1; });
  EXPECT_LE(first->at, small_model(512) + milliseconds(20));
  EXPECT_LE(route.longest_gap(1), milliseconds(21));
}

// ---- a prompt is in all stages at once
// -----------------------------------------------------------

TEST(BatchPlanner, APromptKeepsBothStagesBusy) {
  VirtualRoute route({.stages = 2, .cost = small_model});
  route.ask(1, 16, 8, Time(0));  // what batches cost is known by then
  route.run();
  const Time begin = route.ended();
  route.ask(2, 4096, 1, begin);
  route.run();
  const Time alone = 8 * small_model(512) * 2;  // one stage after the other
  EXPECT_GT(
      static_cast<double>(alone.count()) / static_cast<double>((route.ended() - begin).count()),
      1.8);
}

TEST(BatchPlanner, PromptsOfSeveralSessionsTakeTurnsBatchByBatch) {
  VirtualRoute route({.stages = 2, .cost = small_model});
  route.ask(9, 16, 8, Time(0));
  route.run();
  const Time begin = route.ended();
  for (std::uint64_t session = 1; session <= 4; ++session) route.ask(session, 1024, 1, begin);
  route.run();
  std::vector<Time> ends;
  for (const auto& token : route.tokens()) {
    if (token.session != 9) ends.push_back(token.at);
  }
  ASSERT_EQ(ends.size(), 4U);
  // Equal prompts that begin together end together, but for some batches.
  EXPECT_GT((ends.front() - begin) * 10, (ends.back() - begin) * 7);
}

}  // namespace
}  // namespace ds4::agent
