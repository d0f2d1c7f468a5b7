#include "agent/stage/stage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <thread>

#include "tests/agent/stage/fake_slice.h"

namespace ds4::agent {
namespace {

using test::FakeControl;
using test::FakeOptions;
using test::FakeSlice;

constexpr std::uint64_t kEpoch = 5;

std::unique_ptr<Stage> make_stage(const FakeOptions& options, const StagePlace& place,
                                  std::shared_ptr<FakeControl> control) {
  return std::make_unique<Stage>(std::make_unique<FakeSlice>(options, std::move(control)), place);
}

wire::WorkItem item(std::uint64_t session, std::vector<std::int32_t> tokens) {
  wire::WorkItem work;
  work.session = session;
  work.context = 1000;
  work.tokens = std::move(tokens);
  work.sample = SamplingParams{};
  return work;
}

/// Waits for the event and drains, until something came.
std::vector<Outgoing> wait_and_drain(Stage& stage) {
  std::vector<Outgoing> out;
  while (out.empty()) {
    pollfd event{stage.event_fd(), POLLIN, 0};
    ::poll(&event, 1, -1);
    out = stage.drain();
  }
  return out;
}

/// False after a minute, which no healthy machine needs.
bool eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 12'000; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

bool is_readable(const Stage& stage) {
  pollfd event{stage.event_fd(), POLLIN, 0};
  return ::poll(&event, 1, 0) == 1;
}

TEST(Stage, TellsWhatItIs) {
  const auto stage = make_stage({}, {kEpoch, 0, 1}, std::make_shared<FakeControl>());
  EXPECT_EQ(stage->place().epoch, kEpoch);
  EXPECT_EQ(stage->params().n_vocab, test::kFakeVocabulary);
  EXPECT_EQ(stage->floats_per_row(), 4U);
  EXPECT_FALSE(is_readable(*stage));
  EXPECT_TRUE(stage->drain().empty());
}

TEST(Stage, TheEventIsReadableUntilDrained) {
  const auto stage = make_stage({}, {kEpoch, 0, 1}, std::make_shared<FakeControl>());
  stage->submit(wire::WorkFrame{kEpoch, {item(1, {1, 2, 3})}, {}});
  const auto out = wait_and_drain(*stage);
  ASSERT_EQ(out.size(), 1U);
  EXPECT_EQ(out[0].to, 0U);
  EXPECT_EQ(std::get<wire::TokenFrame>(out[0].frame).outcomes[0].token,
            test::greedy_answer({1, 2, 3}, 1)[0]);
  EXPECT_FALSE(is_readable(*stage));
}

/// Whether the engine thread is found running (true) or asleep for ten looks in a row, within ten
/// seconds.
bool engine_thread_stays(bool running) {
  const auto look = []() -> char {
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      std::ifstream stat(task.path() / "stat");
      const std::string text((std::istreambuf_iterator<char>(stat)), {});
      if (text.find("(engine)") != text.npos) return text.at(text.rfind(')') + 2);
    }
    return '?';
  };
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  for (int found = 0; found < 10;) {
    if (std::chrono::steady_clock::now() > end) return false;
    found = look() == (running ? 'R' : 'S') ? found + 1 : 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

TEST(Stage, StaysAwakeWhereWorkCameSoonAndSleepsWhereItDoesNot) {
  const auto stage_awake_for = [](std::chrono::microseconds most) {
    StageOptions options;
    options.most_awake = most;
    auto stage = std::make_unique<Stage>(
        std::make_unique<FakeSlice>(FakeOptions{}, std::make_shared<FakeControl>()),
        StagePlace{kEpoch, 0, 1}, options);
    for (const std::uint64_t session : {1, 2}) {
      stage->submit(wire::WorkFrame{kEpoch, {item(session, {1})}, {}});
      wait_and_drain(*stage);
    }
    return stage;
  };
  {
    const auto stage = stage_awake_for(std::chrono::hours(1));
    EXPECT_TRUE(engine_thread_stays(true));
    stage->submit(wire::WorkFrame{kEpoch, {item(3, {1})}, {}});
    EXPECT_EQ(wait_and_drain(*stage).size(), 1U);
  }
  const auto brief = stage_awake_for(std::chrono::milliseconds(50));
  EXPECT_TRUE(engine_thread_stays(false));
  const auto never = stage_awake_for(std::chrono::microseconds(0));
  EXPECT_TRUE(engine_thread_stays(false));
}

/// A first stage of two, and what it sends from its own thread.
struct Sending {
  explicit Sending(bool can) {
    StageOptions options;
    options.send = [this, can](Outgoing& out) {
      EXPECT_TRUE(std::this_thread::get_id() != caller);
      EXPECT_EQ(out.to, 1U);
      if (can) sent.set_value(std::get<wire::WorkFrame>(std::move(out.frame)));
      return can;
    };
    stage = std::make_unique<Stage>(
        std::make_unique<FakeSlice>(FakeOptions{.last_layer = 2, .output = false},
                                    std::make_shared<FakeControl>()),
        StagePlace{kEpoch, 0, 2}, options);
  }

  const std::thread::id caller = std::this_thread::get_id();
  std::promise<wire::WorkFrame> sent;
  std::unique_ptr<Stage> stage;
};

TEST(Stage, FramesForOtherStagesLeaveByThemselves) {
  Sending sending(true);
  sending.stage->submit(wire::WorkFrame{kEpoch, {item(1, {1, 2, 3})}, {}});
  EXPECT_EQ(sending.sent.get_future().get().streams.size(), 12U);
  // For this node's own entry: it is left here.
  wire::WorkItem wrong = item(2, {1});
  wrong.first_position = 7;
  sending.stage->submit(wire::WorkFrame{kEpoch, {wrong}, {}});
  const auto left = wait_and_drain(*sending.stage);
  ASSERT_EQ(left.size(), 1U);
  EXPECT_TRUE(std::holds_alternative<wire::ErrorFrame>(left[0].frame));
  EXPECT_EQ(sending.stage->stats().sent_frames, 1U);
}

TEST(Stage, AnUnreachableStageIsReported) {
  Sending sending(false);
  sending.stage->submit(wire::WorkFrame{kEpoch, {item(1, {1})}, {}});
  const auto left = wait_and_drain(*sending.stage);
  ASSERT_EQ(left.size(), 1U);
  EXPECT_EQ(left[0].to, 1U);
  EXPECT_TRUE(std::holds_alternative<Unsent>(left[0].frame));
}

TEST(Stage, ToldToStopItSendsNothingMore) {
  Sending sending(true);
  sending.stage->stop_sending();
  sending.stage->submit(wire::WorkFrame{kEpoch, {item(1, {1})}, {}});
  EXPECT_TRUE(std::holds_alternative<wire::WorkFrame>(wait_and_drain(*sending.stage)[0].frame));
}

TEST(Stage, FramesOfAnotherEpochAreDropped) {
  const auto stage = make_stage({}, {kEpoch, 0, 1}, std::make_shared<FakeControl>());
  stage->submit(wire::WorkFrame{kEpoch - 1, {item(1, {1})}, {}});
  stage->submit(wire::WorkFrame{kEpoch, {item(2, {1})}, {}});
  stage->submit(wire::CloseFrame{kEpoch + 1, {2}});
  stage->submit(wire::WorkFrame{kEpoch, {item(3, {1})}, {}});
  std::vector<std::uint64_t> answered;
  while (answered.size() < 2) {
    for (const Outgoing& sent : wait_and_drain(*stage)) {
      for (const auto& outcome : std::get<wire::TokenFrame>(sent.frame).outcomes) {
        answered.push_back(outcome.session);
      }
    }
  }
  EXPECT_THAT(answered, ::testing::ElementsAre(2, 3));
  EXPECT_EQ(stage->stats().sessions, 2U);
}

TEST(Stage, StatsCountAndTellSinceWhenItIsBusy) {
  const auto control = std::make_shared<FakeControl>();
  const auto stage = make_stage({}, {kEpoch, 0, 1}, control);
  EXPECT_EQ(stage->stats().busy_since, std::chrono::steady_clock::time_point{});
  control->close_gate();
  stage->submit(wire::WorkFrame{kEpoch, {item(1, {1, 2}), item(2, {3})}, {}});
  control->wait_until_inside();
  EXPECT_NE(stage->stats().busy_since, std::chrono::steady_clock::time_point{});
  EXPECT_EQ(stage->stats().work.batches, 0U);
  control->open_gate();
  wait_and_drain(*stage);
  EXPECT_EQ(stage->stats().sessions, 2U);
  EXPECT_EQ(stage->stats().kv_bytes, 16000U);
  EXPECT_EQ(stage->stats().work.rows(), 3U);
  EXPECT_EQ(stage->stats().work.batches, 1U);
  // It goes back to sleep by itself; nothing signals that, so look until it does.
  while (stage->stats().busy_since != std::chrono::steady_clock::time_point{}) {
    std::this_thread::yield();
  }
}

TEST(Stage, WhatArrivesDuringABatchBecomesTheNextOne) {
  const auto control = std::make_shared<FakeControl>();
  const auto stage = make_stage({}, {kEpoch, 0, 1}, control);
  control->close_gate();
  stage->submit(wire::WorkFrame{kEpoch, {item(1, {1})}, {}});
  control->wait_until_inside();
  for (std::uint64_t session = 2; session <= 6; ++session) {
    stage->submit(wire::WorkFrame{kEpoch, {item(session, {1})}, {}});
  }
  control->open_gate();
  std::size_t answered = 0;
  while (answered < 6) {
    for (const Outgoing& sent : wait_and_drain(*stage)) {
      answered += std::get<wire::TokenFrame>(sent.frame).outcomes.size();
    }
  }
  ASSERT_EQ(control->calls().size(), 2U);
  EXPECT_EQ(control->calls()[1].sessions.size(), 5U);
}

TEST(Stage, TakesNoMoreWorkWhenTooMuchWaits) {
  const auto control = std::make_shared<FakeControl>();
  const auto stage = make_stage({}, {kEpoch, 0, 1}, control);
  control->close_gate();
  ASSERT_TRUE(stage->submit(wire::WorkFrame{kEpoch, {item(1, {1})}, {}}));
  control->wait_until_inside();
  const std::vector<std::int32_t> tokens(1024, 1);
  std::uint64_t taken = 0;
  while (taken < 100 && stage->submit(wire::WorkFrame{kEpoch, {item(2 + taken, tokens)}, {}})) {
    ++taken;
  }
  EXPECT_EQ(taken, kMostWaitingRows / tokens.size());
  EXPECT_GE(stage->stats().waiting_rows, kMostWaitingRows);
  for (std::uint64_t session = 1; session < 2 + taken; ++session) {
    EXPECT_TRUE(stage->submit(wire::CloseFrame{kEpoch, {session}})) << "work keeps no closing out";
  }
  control->open_gate();
  while (stage->stats().waiting_rows > 0 || stage->stats().sessions > 0) std::this_thread::yield();
  EXPECT_TRUE(stage->submit(wire::WorkFrame{kEpoch, {item(1, {1})}, {}}));
}

TEST(Stage, TakesNoMoreClosingsAndForksWhenTooManyWait) {
  const auto control = std::make_shared<FakeControl>();
  const auto stage = make_stage({}, {kEpoch, 0, 1}, control);
  ASSERT_TRUE(stage->submit(wire::WorkFrame{kEpoch, {item(1, {1})}, {}}));
  wait_and_drain(*stage);
  control->close_gate();
  ASSERT_TRUE(stage->submit(wire::WorkFrame{kEpoch, {item(2, {1})}, {}}));
  control->wait_until_inside();
  wire::CloseFrame nobodys{kEpoch, {}};
  for (std::uint64_t i = 0; i < wire::kMaxItems; ++i) nobodys.sessions.push_back(1'000'000 + i);
  std::uint64_t taken = 0;
  while (taken < 1'000'000 && stage->submit(nobodys)) taken += wire::kMaxItems;
  EXPECT_EQ(taken, kMostWaitingOrders);
  EXPECT_EQ(stage->stats().waiting_orders, kMostWaitingOrders);
  EXPECT_FALSE(stage->submit(wire::ForkFrame{kEpoch, {{1, 3, 0, 1, 0}}}));
  EXPECT_TRUE(stage->submit(wire::WorkFrame{kEpoch, {item(4, {1})}, {}}))
      << "they keep no work out";
  control->open_gate();
  ASSERT_TRUE(eventually([&] { return stage->stats().waiting_orders == 0; }));
  EXPECT_TRUE(stage->submit(wire::CloseFrame{kEpoch, {1, 2, 4}}));
  EXPECT_TRUE(eventually([&] { return stage->stats().sessions == 0; }));
  EXPECT_EQ(stage->stats().waiting_orders, 0U);
}

TEST(Stage, ClosingsAndForksThatWaitBehindWorkAreCountedUntilTheyAreCarriedOut) {
  const auto control = std::make_shared<FakeControl>();
  const auto stage = make_stage({}, {kEpoch, 0, 1}, control);
  control->close_gate();
  // Longer than a batch, so what follows it has to wait in the queue.
  const auto prompt = item(1, std::vector<std::int32_t>(40, 1));
  ASSERT_TRUE(stage->submit(wire::WorkFrame{kEpoch, {prompt}, {}}));
  control->wait_until_inside();
  const std::uint64_t hash = wire::extend_hash(0, prompt.tokens);
  EXPECT_TRUE(stage->submit(wire::ForkFrame{kEpoch, {{1, 2, hash, 40, 0}, {1, 1, hash, 40, 0}}}));
  EXPECT_TRUE(stage->submit(wire::CloseFrame{kEpoch, {1}}));
  EXPECT_EQ(stage->stats().waiting_orders, 3U);
  control->open_gate();
  ASSERT_TRUE(eventually([&] { return stage->stats().waiting_orders == 0; }));
  EXPECT_EQ(stage->stats().sessions, 1U) << "the copy";
}

TEST(Stage, DestructionWaitsForTheBatchInProgressAndDropsTheRest) {
  const auto control = std::make_shared<FakeControl>();
  auto stage = make_stage({}, {kEpoch, 0, 1}, control);
  control->close_gate();
  stage->submit(wire::WorkFrame{kEpoch, {item(1, {1})}, {}});
  control->wait_until_inside();
  stage->submit(wire::WorkFrame{kEpoch, {item(2, {1})}, {}});
  auto destroyed = std::async(std::launch::async, [&] { stage.reset(); });
  control->open_gate();
  destroyed.get();
  EXPECT_LE(control->calls().size(), 2U);
  EXPECT_EQ(control->calls()[0].sessions[0], 1U);
}

TEST(Stage, AnIdleStageIsDestroyedAtOnce) {
  make_stage({}, {kEpoch, 0, 1}, std::make_shared<FakeControl>()).reset();
}

// ---- three stages, each with its thread, and this thread as the main loop of all ----------------

class Route {
 public:
  Route() {
    const std::vector<FakeOptions> shapes = {{0, 1, false, 8}, {2, 3, false, 16}, {4, 5, true, 8}};
    for (std::uint32_t i = 0; i < 3; ++i) {
      stages_.push_back(make_stage(shapes[i], {kEpoch, i, 3}, control));
    }
  }

  Stage& first() { return *stages_[0]; }

  /// Carries frames until some arrived for the entry.
  std::vector<Outgoing> turn() {
    std::vector<pollfd> events;
    for (const auto& stage : stages_) events.push_back({stage->event_fd(), POLLIN, 0});
    ::poll(events.data(), events.size(), -1);
    std::vector<Outgoing> for_entry;
    for (const auto& stage : stages_) {
      for (Outgoing& sent : stage->drain()) {
        if (auto* work = std::get_if<wire::WorkFrame>(&sent.frame)) {
          stages_[sent.to]->submit(std::move(*work));
        } else if (auto* close = std::get_if<wire::CloseFrame>(&sent.frame)) {
          stages_[sent.to]->submit(std::move(*close));
        } else {
          for_entry.push_back(std::move(sent));
        }
      }
    }
    return for_entry;
  }

  std::uint64_t sessions() const {
    std::uint64_t sum = 0;
    for (const auto& stage : stages_) sum += stage->stats().sessions;
    return sum;
  }

  std::shared_ptr<FakeControl> control = std::make_shared<FakeControl>();

 private:
  std::vector<std::unique_ptr<Stage>> stages_;
};

struct Talk {
  std::vector<std::int32_t> prompt;
  std::vector<std::int32_t> answer;
  wire::WorkItem last;
};

wire::WorkItem next_step(const Talk& talk) {
  wire::WorkItem work = talk.last;
  work.first_position += static_cast<std::uint32_t>(work.tokens.size());
  work.prefix_hash = wire::extend_hash(work.prefix_hash, work.tokens);
  work.tokens = {talk.answer.back()};
  return work;
}

TEST(Stage, ThreeStagesAnswerManySessionsWhileOthersCloseMidway) {
  constexpr std::size_t kAnswer = 20;
  Route route;
  std::map<std::uint64_t, Talk> talks;
  for (std::uint64_t session = 1; session <= 12; ++session) {
    Talk& talk = talks[session];
    for (std::uint64_t i = 0; i < session * 3; ++i) {
      talk.prompt.push_back(static_cast<std::int32_t>((i * session) % 50));
    }
    talk.last = item(session, talk.prompt);
    route.first().submit(wire::WorkFrame{kEpoch, {talk.last}, {}});
    // A neighbour that is closed while its work may be anywhere on the route.
    route.first().submit(wire::WorkFrame{kEpoch, {item(100 + session, talk.prompt)}, {}});
    route.first().submit(wire::CloseFrame{kEpoch, {100 + session}});
  }
  std::size_t done = 0;
  while (done < talks.size()) {
    for (const Outgoing& sent : route.turn()) {
      ASSERT_TRUE(std::holds_alternative<wire::TokenFrame>(sent.frame))
          << std::get<wire::ErrorFrame>(sent.frame).message;
      for (const auto& outcome : std::get<wire::TokenFrame>(sent.frame).outcomes) {
        if (outcome.token < 0 || outcome.session > 100) continue;
        Talk& talk = talks.at(outcome.session);
        talk.answer.push_back(outcome.token);
        if (talk.answer.size() < kAnswer) {
          talk.last = next_step(talk);
          route.first().submit(wire::WorkFrame{kEpoch, {talk.last}, {}});
        } else {
          route.first().submit(wire::CloseFrame{kEpoch, {outcome.session}});
          ++done;
        }
      }
    }
  }
  // A last session tells when everything before it is through.
  route.first().submit(wire::WorkFrame{kEpoch, {item(999, {1})}, {}});
  while (route.turn().empty()) {
  }
  for (const auto& [session, talk] : talks) {
    EXPECT_EQ(talk.answer, test::greedy_answer(talk.prompt, kAnswer)) << session;
  }
  EXPECT_EQ(route.control->misplaced_rows, 0);
  EXPECT_EQ(route.sessions(), 3U);  // only the last one, on each stage
}

TEST(Stage, AStageThatLostItsCacheSaysSoAndAReplayGivesTheSameTokens) {
  Route route;
  const std::vector<std::int32_t> prompt = {5, 6, 7, 8};
  route.first().submit(wire::WorkFrame{kEpoch, {item(1, prompt)}, {}});
  while (route.turn().empty()) {
  }
  route.first().submit(wire::CloseFrame{kEpoch, {1}});
  Talk talk{prompt, {9}, item(1, prompt)};
  route.first().submit(wire::WorkFrame{kEpoch, {next_step(talk)}, {}});
  std::vector<Outgoing> answer;
  while (answer.empty()) answer = route.turn();
  ASSERT_TRUE(std::holds_alternative<wire::ErrorFrame>(answer[0].frame));
  EXPECT_EQ(std::get<wire::ErrorFrame>(answer[0].frame).code, ErrorCode::kMismatch);
  route.first().submit(wire::WorkFrame{kEpoch, {item(1, prompt)}, {}});
  answer.clear();
  while (answer.empty()) answer = route.turn();
  EXPECT_EQ(std::get<wire::TokenFrame>(answer[0].frame).outcomes[0].token,
            test::greedy_answer(prompt, 1)[0]);
}

}  // namespace
}  // namespace ds4::agent
