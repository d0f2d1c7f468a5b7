// Sessions that nobody asks go to disk, by age or for room, and come back with their work.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <map>
#include <optional>
#include <thread>

#include "agent/stage/runner.h"
#include "tests/agent/stage/fake_slice.h"
#include "tests/engine/gguf/temp_file.h"

namespace ds4::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using test::FakeControl;
using test::FakeOptions;
using test::FakeSlice;

constexpr std::uint64_t kEpoch = 5;

wire::WorkItem prompt(std::uint64_t session, std::vector<std::int32_t> tokens) {
  wire::WorkItem work;
  work.session = session;
  work.context = 100;
  work.tokens = std::move(tokens);
  work.sample = SamplingParams{};
  return work;
}

wire::WorkItem after(const wire::WorkItem& before, std::int32_t token) {
  wire::WorkItem work = before;
  work.first_position += static_cast<std::uint32_t>(before.tokens.size());
  work.prefix_hash = wire::extend_hash(before.prefix_hash, before.tokens);
  work.tokens = {token};
  return work;
}

/// False after a minute, which no healthy machine needs.
template <typename Condition>
bool eventually(const Condition& holds) {
  for (int i = 0; i < 12'000; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return false;
}

/// A whole model in one stage, with memory for so many sessions.
class PutAway : public testing::Test {
 protected:
  void make(std::uint64_t sessions, FakeOptions shape = {}) {
    directory_ = *KvDirectory::open(dir_.path());
    StageOptions options;
    options.disk = {directory_, 1U << 20, minutes(10), 3};
    shape.kv_budget_positions = sessions * 100;
    slice_ = std::make_unique<FakeSlice>(shape, std::make_shared<FakeControl>());
    runner_ = std::make_unique<Runner>(*slice_, StagePlace{kEpoch, 0, 1}, options);
  }
  /// The token that the item gives, or -1 with its error in error_.
  std::int32_t run(const wire::WorkItem& item) {
    std::vector<Outgoing> out;
    runner_->accept(wire::WorkFrame{kEpoch, {item}, {}}, out);
    while (!runner_->idle()) step(out);
    for (const Outgoing& sent : out) {
      if (const auto* tokens = std::get_if<wire::TokenFrame>(&sent.frame)) {
        return tokens->outcomes.back().token;
      }
      if (const auto* error = std::get_if<wire::ErrorFrame>(&sent.frame)) error_ = *error;
    }
    return -1;
  }
  void pass(std::chrono::milliseconds time) {
    now_ += time;
    std::vector<Outgoing> out;
    for (int i = 0; i < 10; ++i) step(out);
  }
  void step(std::vector<Outgoing>& out) {
    runner_->step(out, now_);
    runner_->tidy(now_);
  }

  test::TempDir dir_;
  std::shared_ptr<const KvDirectory> directory_;
  std::unique_ptr<FakeSlice> slice_;
  std::unique_ptr<Runner> runner_;
  std::optional<wire::ErrorFrame> error_;
  Runner::TimePoint now_{std::chrono::hours(1)};
};

TEST_F(PutAway, WhoIsIdleForLongGoesToDiskAndComesBackWithItsWork) {
  make(10);
  const auto truth = test::greedy_answer({3, 4, 5}, 3);
  const auto first = prompt(1, {3, 4, 5});
  ASSERT_EQ(run(first), truth[0]);
  pass(minutes(9));
  EXPECT_EQ(runner_->sessions(), 1U);
  pass(minutes(2));
  EXPECT_EQ(runner_->sessions(), 0U);
  EXPECT_EQ(slice_->kv_bytes(), 0U);
  EXPECT_EQ(runner_->stored().sessions, 1U);
  const auto second = after(first, truth[0]);
  EXPECT_EQ(run(second), truth[1]);
  EXPECT_EQ(runner_->sessions(), 1U);
  EXPECT_EQ(runner_->stored().restored, 1U);
  EXPECT_EQ(run(after(second, truth[1])), truth[2]);
}

TEST_F(PutAway, MoreSessionsThanMemoryHoldsAllGoOn) {
  make(2);
  std::map<std::uint64_t, wire::WorkItem> last;
  std::map<std::uint64_t, std::vector<std::int32_t>> answers;
  const auto opening = [](std::uint64_t session) {
    return std::vector<std::int32_t>{static_cast<std::int32_t>(session), 4, 5};
  };
  for (std::uint64_t session = 1; session <= 6; ++session) {
    last[session] = prompt(session, opening(session));
    answers[session].push_back(run(last[session]));
    now_ += seconds(6);
  }
  for (int turn = 1; turn < 8; ++turn) {
    for (auto& [session, item] : last) {
      item = after(item, answers[session].back());
      answers[session].push_back(run(item));
      now_ += seconds(6);
    }
  }
  for (const auto& [session, answer] : answers) {
    EXPECT_EQ(answer, test::greedy_answer(opening(session), 8)) << session;
  }
  EXPECT_LE(runner_->sessions(), 2U);
  EXPECT_GE(runner_->stored().restored, 40U);
  EXPECT_EQ(runner_->stored().lost, 0U);
}

TEST_F(PutAway, WhoWasAskedJustNowMakesNoRoom) {
  make(1);
  const auto first = prompt(1, {3, 4, 5});
  ASSERT_GE(run(first), 0);
  now_ += seconds(1);
  EXPECT_EQ(run(prompt(2, {3})), -1);
  ASSERT_TRUE(error_);
  EXPECT_EQ(error_->code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(runner_->stored().sessions, 0U);
  EXPECT_EQ(runner_->sessions(), 1U);
}

TEST_F(PutAway, ClosingAndBeginningAgainTakeTheFileToo) {
  make(10);
  for (const std::uint64_t session : {1, 2}) ASSERT_GE(run(prompt(session, {3, 4, 5})), 0);
  pass(minutes(11));
  ASSERT_EQ(runner_->stored().sessions, 2U);
  runner_->accept(wire::CloseFrame{kEpoch, {1}});
  pass(milliseconds(1));
  EXPECT_EQ(runner_->stored().sessions, 1U);
  EXPECT_EQ(run(prompt(2, {3, 4, 5})), test::greedy_answer({3, 4, 5}, 1)[0]);
  EXPECT_EQ(runner_->stored().sessions, 0U);
  EXPECT_EQ(runner_->stored().restored, 0U);
}

TEST_F(PutAway, WorkAfterOtherTokensThanWerePutAwayIsAMismatch) {
  make(10);
  const auto first = prompt(1, {3, 4, 5});
  ASSERT_GE(run(first), 0);
  pass(minutes(11));
  auto wrong = after(first, 7);
  ++wrong.prefix_hash;
  EXPECT_EQ(run(wrong), -1);
  ASSERT_TRUE(error_);
  EXPECT_EQ(error_->code, ErrorCode::kMismatch);
  EXPECT_EQ(runner_->stored().sessions, 0U);
  EXPECT_EQ(runner_->sessions(), 0U);
}

TEST_F(PutAway, AFileThatCannotBeReadBackMakesTheEntryReplay) {
  make(10);
  const auto first = prompt(1, {3, 4, 5});
  const std::int32_t token = run(first);
  pass(minutes(11));
  ASSERT_TRUE(eventually([&] { return runner_->stored().saved == 1; }));
  for (const auto& file : std::filesystem::directory_iterator(dir_.path())) {
    std::filesystem::resize_file(file.path(), 75);
  }
  EXPECT_EQ(run(after(first, token)), -1);
  ASSERT_TRUE(error_);
  EXPECT_EQ(error_->code, ErrorCode::kMismatch) << "which is what an entry replays after";
  EXPECT_EQ(run(prompt(1, {3, 4, 5})), token);
}

TEST_F(PutAway, ASessionOnDiskCanBeForked) {
  make(10);
  const auto truth = test::greedy_answer({3, 4, 5}, 2);
  const auto first = prompt(1, {3, 4, 5});
  ASSERT_EQ(run(first), truth[0]);
  pass(minutes(11));
  const auto next = after(first, truth[0]);
  runner_->accept(wire::ForkFrame{kEpoch, {{1, 2, next.prefix_hash, 3, 0}}});
  pass(milliseconds(1));
  EXPECT_EQ(runner_->sessions(), 2U);
  for (const std::uint64_t session : {1, 2}) {
    auto item = next;
    item.session = session;
    EXPECT_EQ(run(item), truth[1]) << session;
  }
}

TEST_F(PutAway, WhereTheBackendHandsNothingOutSessionsStayAndAreForgottenAsEver) {
  FakeOptions shape;
  shape.hands_out = false;
  make(1, shape);
  ASSERT_GE(run(prompt(1, {3, 4, 5})), 0);
  pass(minutes(11));
  EXPECT_EQ(runner_->sessions(), 1U);
  EXPECT_GE(run(prompt(2, {3, 4, 5})), 0);
  EXPECT_EQ(runner_->stored().sessions, 0U);
  EXPECT_EQ(runner_->sessions(), 1U);
}

TEST_F(PutAway, AStepLeavesItForWhenItsFramesAreGone) {
  make(10);
  ASSERT_GE(run(prompt(1, {3, 4, 5})), 0);
  now_ += minutes(11);
  std::vector<Outgoing> out;
  runner_->accept(wire::WorkFrame{kEpoch, {prompt(2, {3})}, {}}, out);
  runner_->step(out, now_);
  EXPECT_EQ(out.size(), 1U);
  EXPECT_EQ(runner_->sessions(), 2U);
  EXPECT_TRUE(runner_->tidy(now_));
  EXPECT_EQ(runner_->sessions(), 1U);
  EXPECT_FALSE(runner_->tidy(now_)) << "session 2 is not idle";
}

TEST_F(PutAway, NoTokenThatIsComputedWaitsForASessionThatIsPutAway) {
  directory_ = *KvDirectory::open(dir_.path());
  StageOptions options;
  options.disk = {directory_, 1U << 20, milliseconds(300), 3};
  const auto control = std::make_shared<FakeControl>();
  std::atomic<bool> holds_up{false};
  std::atomic<bool> is_away{false};
  std::promise<void> may_go_on;
  FakeOptions shape;
  shape.on_detach = [&, may = may_go_on.get_future().share()] {
    is_away = true;
    if (holds_up) may.wait();
  };
  Stage stage(std::make_unique<FakeSlice>(shape, control), {kEpoch, 0, 1}, options);
  const auto submit = [&](const wire::WorkItem& item) {
    stage.submit(wire::WorkFrame{kEpoch, {item}, {}});
  };
  std::size_t answered = 0;
  const auto have_answered = [&](std::size_t passes) {
    for (const Outgoing& sent : stage.drain()) {
      answered += std::get<wire::TokenFrame>(sent.frame).outcomes.size();
    }
    return answered == passes;
  };
  // A session comes to its age in a pass of another's: again, where this machine was too slow.
  std::uint64_t next = 1;
  do {
    control->open_gate();
    is_away = holds_up = false;
    submit(prompt(next, {3, 4, 5}));
    ASSERT_TRUE(eventually([&] { return have_answered(next); }));
    control->close_gate();
    submit(prompt(next + 1, {3}));
    control->wait_until_inside();
    holds_up = true;
    next += 2;
  } while (is_away);
  std::this_thread::sleep_for(milliseconds(400));
  submit(prompt(next, {3}));
  control->open_gate();
  ASSERT_TRUE(eventually([&] { return is_away.load(); }));
  // Whatever was computed before it is out.
  EXPECT_TRUE(eventually([&] { return have_answered(control->calls().size()); }));
  may_go_on.set_value();
}

TEST_F(PutAway, AnIdleStageWakesForItByItself) {
  directory_ = *KvDirectory::open(dir_.path());
  StageOptions options;
  options.disk = {directory_, 1U << 20, milliseconds(200), 3};
  Stage stage(std::make_unique<FakeSlice>(FakeOptions{}, std::make_shared<FakeControl>()),
              {kEpoch, 0, 1}, options);
  stage.submit(wire::WorkFrame{kEpoch, {prompt(1, {3, 4, 5})}, {}});
  ASSERT_TRUE(eventually([&] { return stage.stats().stored.saved == 1; }));
  EXPECT_EQ(stage.stats().sessions, 0U);
  EXPECT_EQ(stage.stats().kv_bytes, 0U);
  EXPECT_EQ(stage.stats().stored.sessions, 1U);
  stage.submit(wire::CloseFrame{kEpoch, {1}});
  EXPECT_TRUE(eventually([&] { return std::filesystem::is_empty(dir_.path()); }));
}

}  // namespace
}  // namespace ds4::agent
