// Any arrangement of stages, chunks and batches gives the same tokens.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "agent/stage/runner.h"
#include "tests/agent/stage/fake_slice.h"

namespace ds4::agent {
namespace {

using test::FakeControl;
using test::FakeOptions;
using test::FakeSlice;

constexpr std::uint64_t kEpoch = 5;

struct Conversation {
  std::vector<std::int32_t> prompt;
  std::vector<std::int32_t> all;  // with the answer
  std::size_t fed = 0;
  std::uint64_t hash = 0;
};

constexpr std::size_t kAnswer = 12;

/// Stages in a row, stepped in an order that `random` chooses; a test's stand-in for agents.
class Chain {
 public:
  Chain(std::vector<FakeOptions> shapes, std::uint32_t seed) : random_(seed) {
    for (std::uint32_t i = 0; i < shapes.size(); ++i) {
      slices_.push_back(std::make_unique<FakeSlice>(shapes[i], control));
      const StagePlace place{kEpoch, i, static_cast<std::uint32_t>(shapes.size())};
      runners_.push_back(std::make_unique<Runner>(*slices_.back(), place, options()));
    }
  }

  void converse(std::map<std::uint64_t, Conversation>& conversations) {
    for (auto& [session, conversation] : conversations) feed(session, conversation);
    while (step()) {
      for (const wire::Outcome& outcome : std::exchange(outcomes_, {})) {
        if (outcome.token < 0) continue;
        Conversation& conversation = conversations.at(outcome.session);
        ASSERT_EQ(outcome.position, conversation.all.size());
        conversation.all.push_back(outcome.token);
        if (conversation.all.size() < conversation.prompt.size() + kAnswer) {
          feed(outcome.session, conversation);
        } else {
          runners_[0]->accept(wire::CloseFrame{kEpoch, {outcome.session}});
        }
      }
    }
    for (const auto& runner : runners_) EXPECT_EQ(runner->sessions(), 0U);
  }

  std::shared_ptr<FakeControl> control = std::make_shared<FakeControl>();

 private:
  /// Batches take times that mean nothing, so their sizes are as good as random.
  StageOptions options() {
    StageOptions options;
    options.decode_wait = std::chrono::milliseconds(1);
    options.clock = [this] { return time_ += std::chrono::microseconds(random_() % 200); };
    return options;
  }

  /// Everything not fed yet, in chunks of random sizes.
  void feed(std::uint64_t session, Conversation& conversation) {
    while (conversation.fed < conversation.all.size()) {
      const std::size_t left = conversation.all.size() - conversation.fed;
      const std::size_t count = 1 + random_() % left;
      const auto begin = conversation.all.begin() + static_cast<std::ptrdiff_t>(conversation.fed);
      wire::WorkItem work;
      work.session = session;
      work.context = 1000;
      work.tokens.assign(begin, begin + static_cast<std::ptrdiff_t>(count));
      if (count == left) work.sample = SamplingParams{};
      work.first_position = static_cast<std::uint32_t>(conversation.fed);
      work.prefix_hash = conversation.hash;
      conversation.fed += count;
      conversation.hash = wire::extend_hash(conversation.hash, work.tokens);
      std::vector<Outgoing> out;
      runners_[0]->accept(wire::WorkFrame{kEpoch, {std::move(work)}, {}}, out);
      ASSERT_TRUE(out.empty());
    }
  }

  /// One batch of a stage that has work, and its frames to where they belong. False: all idle.
  bool step() {
    std::vector<std::size_t> busy;
    for (std::size_t i = 0; i < runners_.size(); ++i) {
      if (!runners_[i]->idle()) busy.push_back(i);
    }
    if (busy.empty()) return false;
    std::vector<Outgoing> out;
    runners_[busy[random_() % busy.size()]]->step(out, time_);
    std::vector<Outgoing> refused;
    for (Outgoing& sent : out) {
      if (auto* work = std::get_if<wire::WorkFrame>(&sent.frame)) {
        runners_[sent.to]->accept(std::move(*work), refused);
      } else if (const auto* close = std::get_if<wire::CloseFrame>(&sent.frame)) {
        runners_[sent.to]->accept(*close);
      } else if (const auto* tokens = std::get_if<wire::TokenFrame>(&sent.frame)) {
        outcomes_.insert(outcomes_.end(), tokens->outcomes.begin(), tokens->outcomes.end());
      } else {
        ADD_FAILURE() << std::get<wire::ErrorFrame>(sent.frame).message;
      }
    }
    EXPECT_TRUE(refused.empty());
    return true;
  }

  std::mt19937 random_;
  Runner::TimePoint time_{};
  std::vector<std::unique_ptr<FakeSlice>> slices_;
  std::vector<std::unique_ptr<Runner>> runners_;
  std::vector<wire::Outcome> outcomes_;
};

std::map<std::uint64_t, Conversation> make_conversations(std::uint32_t seed) {
  std::mt19937 random(seed + 1000);
  std::map<std::uint64_t, Conversation> out;
  for (std::uint64_t session = 1; session <= 9; ++session) {
    Conversation& one = out[session * 1000];
    one.prompt.resize(1 + random() % 60);
    for (auto& token : one.prompt) token = static_cast<std::int32_t>(random() % 50);
    one.all = one.prompt;
  }
  return out;
}

std::vector<FakeOptions> split_in(std::size_t stages, std::uint32_t max_rows) {
  switch (stages) {
    case 1:
      return {{0, 5, true, max_rows}};
    case 2:
      return {{0, 2, false, max_rows}, {3, 5, true, max_rows + 3}};
    default:
      return {{0, 0, false, max_rows}, {1, 3, false, 2 * max_rows}, {4, 5, true, max_rows}};
  }
}

TEST(Runner, CuttingBatchingAndSplittingNeverChangeAToken) {
  for (std::uint32_t seed = 0; seed < 12; ++seed) {
    for (std::size_t stages = 1; stages <= 3; ++stages) {
      for (const std::uint32_t max_rows : {1U, 5U, 16U, 200U}) {
        auto conversations = make_conversations(seed);
        Chain chain(split_in(stages, max_rows), seed);
        chain.converse(conversations);
        EXPECT_EQ(chain.control->misplaced_rows, 0);
        for (const auto& [session, one] : conversations) {
          const std::vector<std::int32_t> answer(
              one.all.begin() + static_cast<std::ptrdiff_t>(one.prompt.size()), one.all.end());
          ASSERT_EQ(answer, test::greedy_answer(one.prompt, kAnswer))
              << "seed " << seed << ", " << stages << " stages, " << max_rows << " rows, session "
              << session;
        }
      }
    }
  }
}

}  // namespace
}  // namespace ds4::agent
