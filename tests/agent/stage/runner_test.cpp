#include "agent/stage/runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/agent/stage/fake_slice.h"

namespace ds4::agent {
namespace {

using test::FakeControl;
using test::FakeOptions;
using test::FakeSlice;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::uint64_t kEpoch = 5;

wire::WorkItem item(std::uint64_t session, std::vector<std::int32_t> tokens, bool sample = true) {
  wire::WorkItem work;
  work.session = session;
  work.context = 1000;
  work.tokens = std::move(tokens);
  if (sample) work.sample = SamplingParams{};
  return work;
}

wire::WorkItem after(const wire::WorkItem& before, std::vector<std::int32_t> tokens) {
  wire::WorkItem work = before;
  work.first_position += static_cast<std::uint32_t>(before.tokens.size());
  work.prefix_hash = wire::extend_hash(before.prefix_hash, before.tokens);
  work.tokens = std::move(tokens);
  return work;
}

/// A whole model in one stage.
struct Alone {
  explicit Alone(FakeOptions options = {}, StagePlace place = {kEpoch, 0, 1})
      : slice(options, control), runner(slice, place, {}) {}

  void work(std::vector<wire::WorkItem> items) {
    runner.accept(wire::WorkFrame{kEpoch, std::move(items), {}}, out);
  }
  void close(std::vector<std::uint64_t> sessions) {
    runner.accept(wire::CloseFrame{kEpoch, std::move(sessions)});
  }
  void run() {
    while (!runner.idle()) runner.step(out, now);
  }
  std::vector<wire::Outcome> outcomes() const {
    std::vector<wire::Outcome> all;
    for (const Outgoing& sent : out) {
      const auto* frame = std::get_if<wire::TokenFrame>(&sent.frame);
      if (frame != nullptr) all.insert(all.end(), frame->outcomes.begin(), frame->outcomes.end());
    }
    return all;
  }
  std::vector<wire::ErrorFrame> errors() const {
    std::vector<wire::ErrorFrame> all;
    for (const Outgoing& sent : out) {
      if (const auto* frame = std::get_if<wire::ErrorFrame>(&sent.frame)) all.push_back(*frame);
    }
    return all;
  }

  std::shared_ptr<FakeControl> control = std::make_shared<FakeControl>();
  FakeSlice slice;
  Runner runner;
  std::vector<Outgoing> out;
  Runner::TimePoint now{};
};

TEST(Runner, AnswersWithTheTokenAfterTheItem) {
  Alone alone;
  alone.work({item(1, {3, 4, 5})});
  alone.run();
  ASSERT_EQ(alone.outcomes().size(), 1U);
  const wire::Outcome outcome = alone.outcomes()[0];
  EXPECT_EQ(outcome.session, 1U);
  EXPECT_EQ(outcome.position, 3U);
  EXPECT_EQ(outcome.token, test::greedy_answer({3, 4, 5}, 1)[0]);
  EXPECT_LT(outcome.logprob, 0);
  EXPECT_THAT(alone.control->calls()[0].logits, ElementsAre(LogitsWanted::kLast));
}

TEST(Runner, SamplesWithTheItemsParametersAtTheTokensPosition) {
  SamplingParams params;
  params.temperature = 1e9F;  // as good as uniform: every position and seed gives another token
  params.seed = 11;
  const auto sampled = [&](std::uint64_t seed) {
    params.seed = seed;
    Alone alone;
    wire::WorkItem work = item(1, {3, 4, 5});
    work.sample = params;
    alone.work({work});
    alone.run();
    return alone.outcomes()[0].token;
  };
  const auto expected = [&](std::uint64_t seed) {
    params.seed = seed;
    FakeSlice slice({}, std::make_shared<FakeControl>());
    (void)slice.open_session(1, 10);
    std::vector<float> logits(test::kFakeVocabulary);
    const std::vector<std::int32_t> tokens = {3, 4, 5};
    const Segment segment{1, 0, tokens, LogitsWanted::kLast};
    EXPECT_TRUE(slice.forward({{&segment, 1}, {}}, {{}, logits}));
    return Sampler(test::kFakeVocabulary).sample(logits, params, 3).token;
  };
  for (std::uint64_t seed = 0; seed < 20; ++seed) EXPECT_EQ(sampled(seed), expected(seed)) << seed;
}

TEST(Runner, WithoutSamplingItAcknowledges) {
  Alone alone;
  alone.work({item(1, {3, 4}, false)});
  alone.run();
  EXPECT_THAT(alone.outcomes(), ElementsAre(wire::Outcome{1, 2, -1, 0}));
  EXPECT_THAT(alone.control->calls()[0].logits, ElementsAre(LogitsWanted::kNone));
}

TEST(Runner, ALongItemIsRunInPartsAndOnlyTheLastBringsAToken) {
  FakeOptions options;
  options.max_rows = 4;
  Alone alone(options);
  const std::vector<std::int32_t> prompt = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  alone.work({item(1, prompt)});
  alone.run();
  ASSERT_EQ(alone.outcomes().size(), 3U);
  EXPECT_EQ(alone.outcomes()[0], (wire::Outcome{1, 3, -1, 0}));
  EXPECT_EQ(alone.outcomes()[1], (wire::Outcome{1, 6, -1, 0}));
  EXPECT_EQ(alone.outcomes()[2].token, test::greedy_answer(prompt, 1)[0]);
  EXPECT_EQ(alone.runner.work().rows(), 9U);
  EXPECT_EQ(alone.runner.work().batches, 3U);
}

TEST(Runner, CountsDecodeStepsApartFromPrefillAndHowLongEachPieceQueued) {
  using namespace std::chrono_literals;
  FakeOptions options;
  options.max_rows = 4;
  Alone alone(options);
  const wire::WorkItem prompt = item(1, {1, 2, 3, 4, 5, 6});
  const Runner::TimePoint arrival{1h};
  alone.runner.accept({kEpoch, {prompt}, {}}, alone.out, arrival);
  EXPECT_EQ(alone.runner.waiting_rows(), 6U);
  alone.runner.step(alone.out, arrival + 3ms);  // the first half
  EXPECT_EQ(alone.runner.waiting_rows(), 3U);
  alone.runner.step(alone.out, arrival + 5ms);
  EXPECT_EQ(alone.runner.waiting_rows(), 0U);
  alone.runner.accept({kEpoch, {after(prompt, {7})}, {}}, alone.out, arrival + 10ms);
  alone.runner.step(alone.out, arrival + 11ms);
  const StageWork& work = alone.runner.work();
  EXPECT_EQ(work.prefill_rows, 6U);
  EXPECT_EQ(work.decode_rows, 1U);
  EXPECT_EQ(work.batches, 3U);
  EXPECT_EQ(work.tokens, 2U);
  EXPECT_EQ(work.queue_items, 3U);
  EXPECT_EQ(work.queue, 9ms);
  EXPECT_GT(work.compute.count(), 0);
}

TEST(Runner, APauseIsAWaitOnlyIfItIsShortAndSessionsAreOpen) {
  using namespace std::chrono_literals;
  Alone alone;
  alone.runner.note_pause(50ms);
  EXPECT_EQ(alone.runner.work().wait, 0ns);  // nobody is there
  alone.work({item(1, {1})});
  alone.run();
  alone.runner.note_pause(50ms);
  alone.runner.note_pause(1h);
  EXPECT_EQ(alone.runner.work().wait, 50ms);
}

TEST(Runner, OutcomesAreGroupedByTheirEntry) {
  const FakeOptions last{.first_layer = 3, .max_rows = 16};
  const auto control = std::make_shared<FakeControl>();
  FakeSlice slice(last, control);
  Runner runner(slice, {kEpoch, 2, 3}, {});
  std::vector<Outgoing> out;
  wire::WorkFrame frame{kEpoch, {item(1, {1}), item(2, {2}), item(3, {3})}, std::vector<float>(12)};
  frame.items[0].entry = 2;
  frame.items[2].entry = 2;
  runner.accept(std::move(frame), out);
  runner.step(out, {});
  ASSERT_EQ(out.size(), 2U);
  EXPECT_EQ(out[0].to, 0U);
  EXPECT_EQ(std::get<wire::TokenFrame>(out[0].frame).outcomes.size(), 1U);
  EXPECT_EQ(out[1].to, 2U);
  EXPECT_EQ(std::get<wire::TokenFrame>(out[1].frame).epoch, kEpoch);
  EXPECT_EQ(std::get<wire::TokenFrame>(out[1].frame).outcomes.size(), 2U);
}

TEST(Runner, AFrameForAnEntryOutsideTheRouteIsDropped) {
  Alone alone;
  wire::WorkItem stray = item(1, {1});
  stray.entry = 1;
  alone.work({stray});
  EXPECT_TRUE(alone.runner.idle());
  EXPECT_TRUE(alone.out.empty());
}

// ---- prefixes --------------------------------------------------------------------------------

void expect_mismatch(const Alone& alone, std::uint64_t session, const char* sentence) {
  ASSERT_EQ(alone.errors().size(), 1U);
  const wire::ErrorFrame error = alone.errors()[0];
  EXPECT_EQ(error.epoch, kEpoch);
  EXPECT_EQ(error.code, ErrorCode::kMismatch);
  EXPECT_THAT(error.sessions, ElementsAre(session));
  EXPECT_THAT(error.message, HasSubstr("stage 0 (0:output)"));
  EXPECT_THAT(error.message, HasSubstr(sentence));
}

TEST(Runner, WorkForASessionItDoesNotHoldIsAMismatch) {
  Alone alone;
  alone.work({after(item(1, {1, 2}), {3})});
  alone.run();
  expect_mismatch(alone, 1, "is not held here");
  EXPECT_TRUE(alone.outcomes().empty());
}

TEST(Runner, WorkAtAnotherPositionIsAMismatch) {
  Alone alone;
  const wire::WorkItem first = item(1, {1, 2});
  alone.work({first, after(after(first, {3}), {4})});
  alone.run();
  expect_mismatch(alone, 1, "at position 2, but its work begins at 3");
}

TEST(Runner, WorkAfterOtherTokensIsAMismatch) {
  Alone alone;
  wire::WorkItem second = after(item(1, {1, 2}), {3});
  second.prefix_hash ^= 1;
  alone.work({item(1, {1, 2}), second});
  alone.run();
  expect_mismatch(alone, 1, "not the ones its work continues");
}

TEST(Runner, WorkAtPositionZeroWithAPrefixIsAMismatch) {
  Alone alone;
  wire::WorkItem work = item(1, {1, 2});
  work.prefix_hash = 4;
  alone.work({work});
  alone.run();
  expect_mismatch(alone, 1, "claims a prefix");
  EXPECT_EQ(alone.runner.sessions(), 0U);
}

TEST(Runner, AMismatchCostsOnlyItsOwnSession) {
  Alone alone;
  wire::WorkItem good = item(1, {1, 2});
  wire::WorkItem bad = item(2, {1, 2});
  alone.work({good, bad});
  alone.run();
  alone.out.clear();
  wire::WorkItem broken = after(bad, {7});
  broken.prefix_hash ^= 1;
  const wire::WorkItem later = after(after(bad, {7}), {8});
  alone.work({after(good, {7}), broken, later});
  alone.run();
  EXPECT_EQ(alone.errors().size(), 2U);  // what follows it fails the same way
  EXPECT_EQ(alone.errors()[1].code, ErrorCode::kMismatch);
  ASSERT_EQ(alone.outcomes().size(), 1U);
  EXPECT_EQ(alone.outcomes()[0].session, 1U);
  EXPECT_EQ(alone.runner.sessions(), 1U);
  EXPECT_EQ(alone.slice.kv_bytes(), 8000U);  // the lost session's memory is free
}

TEST(Runner, PositionZeroBeginsTheSessionAgain) {
  Alone alone;
  const wire::WorkItem first = item(1, {1, 2, 3});
  alone.work({first, after(first, {4}), first});
  alone.run();
  const auto outcomes = alone.outcomes();
  ASSERT_EQ(outcomes.size(), 3U);
  EXPECT_EQ(outcomes[2], outcomes[0]);
  EXPECT_EQ(alone.runner.sessions(), 1U);
}

// ---- failures --------------------------------------------------------------------------------

TEST(Runner, ASessionBeyondTheMemoryIsRefusedAndTheOthersRun) {
  FakeOptions options;
  options.kv_budget_positions = 1500;
  Alone alone(options);
  alone.work({item(1, {1}), item(2, {2})});
  alone.run();
  ASSERT_EQ(alone.errors().size(), 1U);
  EXPECT_EQ(alone.errors()[0].code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(alone.errors()[0].sessions, ElementsAre(2));
  EXPECT_EQ(alone.outcomes().size(), 1U);
  alone.close({1});
  alone.work({item(2, {2})});
  alone.run();
  EXPECT_EQ(alone.outcomes().size(), 2U);
}

TEST(Runner, SessionsIdleForLongMakeRoomForANewOneOldestFirst) {
  FakeOptions options;
  options.kv_budget_positions = 3500;
  Alone alone(options);
  const auto at = [&](int seconds) {
    alone.now = Runner::TimePoint{} + std::chrono::seconds(seconds);
  };
  for (int session = 1; session <= 3; ++session) {
    at(session);
    alone.work({item(static_cast<std::uint64_t>(session), {1})});
    alone.run();
  }
  at(50);
  alone.work({after(item(1, {1}), {2})});  // 1 is in use again
  alone.run();
  at(61);
  alone.work({item(4, {1})});
  alone.run();
  EXPECT_EQ(alone.errors().size(), 1U);  // nobody has been idle for a minute
  at(62);
  alone.work({item(5, {1})});  // 2 has
  alone.run();
  EXPECT_EQ(alone.errors().size(), 1U);
  alone.work({after(item(2, {1}), {2}), after(item(3, {1}), {2})});
  alone.run();
  ASSERT_EQ(alone.errors().size(), 2U);
  EXPECT_THAT(alone.errors()[1].sessions, ElementsAre(2));
  EXPECT_EQ(alone.errors()[1].code, ErrorCode::kMismatch);
}

TEST(Runner, APieceThatTheSliceRefusesIsFoundAndTheOthersRun) {
  for (std::uint64_t bad = 1; bad <= 7; ++bad) {
    Alone alone;
    std::vector<wire::WorkItem> items;
    for (std::uint64_t session = 1; session <= 7; ++session) {
      items.push_back(item(session, {session == bad ? 99 : 1}));
    }
    alone.work(items);
    alone.run();
    ASSERT_EQ(alone.errors().size(), 1U);
    EXPECT_EQ(alone.errors()[0].code, ErrorCode::kOutOfRange);
    EXPECT_THAT(alone.errors()[0].sessions, ElementsAre(bad));
    EXPECT_THAT(alone.errors()[0].message, HasSubstr("token 99 is unknown"));
    EXPECT_EQ(alone.outcomes().size(), 6U);
    EXPECT_EQ(alone.runner.sessions(), 6U);
  }
}

TEST(Runner, WorkBeyondTheSessionsContextIsRefused) {
  Alone alone;
  wire::WorkItem first = item(1, {1, 2});
  first.context = 2;
  alone.work({first, after(first, {3})});
  alone.run();
  ASSERT_EQ(alone.errors().size(), 1U);
  EXPECT_EQ(alone.errors()[0].code, ErrorCode::kOutOfRange);
}

TEST(Runner, WhenTheSliceFailsEveryItemIsAnsweredAndItGoesOnLater) {
  Alone alone;
  alone.control->fail_all = true;
  alone.work({item(1, {1}), item(2, {1, 2}), item(3, {3})});
  alone.run();
  EXPECT_EQ(alone.errors().size(), 3U);
  for (const auto& error : alone.errors()) EXPECT_EQ(error.code, ErrorCode::kIo);
  EXPECT_EQ(alone.runner.sessions(), 0U);
  EXPECT_EQ(alone.slice.kv_bytes(), 0U);
  EXPECT_EQ(alone.runner.work().rows(), 0U);
  alone.control->fail_all = false;
  alone.work({item(1, {1})});
  alone.run();
  EXPECT_EQ(alone.outcomes().size(), 1U);
}

TEST(Runner, StreamsOfTheWrongSizeAreAnErrorForEveryItem) {
  const auto control = std::make_shared<FakeControl>();
  FakeSlice slice({.first_layer = 3}, control);
  Runner runner(slice, {kEpoch, 1, 2}, {});
  for (const std::size_t floats : {std::size_t{0}, std::size_t{11}, std::size_t{13}}) {
    std::vector<Outgoing> out;
    runner.accept(
        wire::WorkFrame{kEpoch, {item(1, {1}), item(2, {1, 2})}, std::vector<float>(floats)}, out);
    ASSERT_EQ(out.size(), 2U);
    EXPECT_EQ(std::get<wire::ErrorFrame>(out[0].frame).code, ErrorCode::kCorrupt);
    EXPECT_EQ(std::get<wire::ErrorFrame>(out[0].frame).stage, 1U);
    EXPECT_TRUE(runner.idle());
  }
}

// ---- closings --------------------------------------------------------------------------------

TEST(Runner, AClosingFollowsWhatRanAndIsPassedOnWithoutTheRest) {
  const auto control = std::make_shared<FakeControl>();
  FakeSlice slice({.last_layer = 2, .output = false, .max_rows = 4}, control);
  Runner runner(slice, {kEpoch, 0, 2}, {});
  std::vector<Outgoing> out;
  runner.accept(wire::WorkFrame{kEpoch, {item(1, {1, 2, 3, 4, 5, 6, 7, 8})}, {}}, out);
  runner.step(out, {});
  EXPECT_GT(slice.kv_bytes(), 0U);
  runner.accept(wire::CloseFrame{kEpoch, {9, 1}});
  while (!runner.idle()) runner.step(out, {});
  ASSERT_EQ(out.size(), 2U);
  EXPECT_EQ(std::get<wire::WorkFrame>(out[0].frame).items[0].tokens.size(), 4U);
  EXPECT_THAT(std::get<wire::CloseFrame>(out[1].frame).sessions, ElementsAre(9, 1));
  for (const Outgoing& sent : out) EXPECT_EQ(sent.to, 1U);
  EXPECT_EQ(runner.sessions(), 0U);
  EXPECT_EQ(runner.waiting_rows(), 0U);
  EXPECT_EQ(slice.kv_bytes(), 0U);
}

TEST(Runner, TheLastStageKeepsClosingsToItself) {
  Alone alone;
  alone.work({item(1, {1})});
  alone.run();
  alone.close({1, 2});
  alone.run();
  EXPECT_EQ(alone.out.size(), 1U);  // the token
  EXPECT_EQ(alone.runner.sessions(), 0U);
}

TEST(Runner, ManyClosingsAreSentInFramesThatMayBeSent) {
  const auto control = std::make_shared<FakeControl>();
  FakeSlice slice({.last_layer = 2, .output = false}, control);
  Runner runner(slice, {kEpoch, 0, 2}, {});
  std::vector<Outgoing> out;
  for (std::uint64_t session = 0; session < 2500; ++session) {
    runner.accept(wire::CloseFrame{kEpoch, {session}});
  }
  runner.step(out, {});
  std::size_t closed = 0;
  for (const Outgoing& sent : out) {
    const auto& sessions = std::get<wire::CloseFrame>(sent.frame).sessions;
    EXPECT_LE(sessions.size(), wire::kMaxItems);
    closed += sessions.size();
  }
  EXPECT_EQ(closed, 2500U);
}

}  // namespace
}  // namespace ds4::agent
