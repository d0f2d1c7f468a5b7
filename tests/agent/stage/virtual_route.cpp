#include "tests/agent/stage/virtual_route.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

namespace ds4::test {
namespace {

constexpr std::uint64_t kEpoch = 1;
constexpr std::uint32_t kContext = 100'000;

FakeOptions range_of(std::uint32_t stage, std::uint32_t stages, std::uint32_t max_rows) {
  const std::uint32_t layers = kFakeLayers / stages;
  FakeOptions options;
  options.first_layer = stage * layers;
  options.last_layer = (stage + 1) * layers - 1;
  options.output = stage + 1 == stages;
  options.max_rows = max_rows;
  options.kv_budget_positions = 1ULL << 40;
  return options;
}

}  // namespace

VirtualRoute::VirtualRoute(Shape shape) : shape_(std::move(shape)) {
  for (std::uint32_t i = 0; i < shape_.stages; ++i) {
    Stage& stage = stages_.emplace_back();
    FakeOptions options = range_of(i, shape_.stages, shape_.max_rows);
    options.spend = [this](std::uint32_t rows) { now_ += shape_.cost(rows); };
    stage.slice = std::make_unique<FakeSlice>(options, std::make_shared<FakeControl>());
    agent::StageOptions settings;
    settings.decode_wait = shape_.decode_wait;
    settings.clock = [this] { return agent::Runner::TimePoint(now_); };
    stage.runner = std::make_unique<agent::Runner>(
        *stage.slice, agent::StagePlace{kEpoch, i, shape_.stages}, settings);
  }
}

void VirtualRoute::ask(std::uint64_t session, std::uint32_t prompt_tokens,
                       std::uint32_t answer_tokens, Time at) {
  talks_[session] = {0, 0, answer_tokens};
  feed(session, std::vector<std::int32_t>(prompt_tokens, 3), at);
}

void VirtualRoute::feed(std::uint64_t session, std::vector<std::int32_t> tokens, Time at) {
  Talk& talk = talks_.at(session);
  wire::WorkItem item;
  item.session = session;
  item.first_position = talk.position;
  item.context = kContext;
  item.prefix_hash = talk.hash;
  item.sample = SamplingParams{};
  item.tokens = std::move(tokens);
  talk.position += static_cast<std::uint32_t>(item.tokens.size());
  talk.hash = wire::extend_hash(talk.hash, item.tokens);
  under_way_.emplace(at, agent::Outgoing{0, wire::WorkFrame{kEpoch, {std::move(item)}, {}}});
}

void VirtualRoute::on_tokens(const wire::TokenFrame& frame, Time at) {
  for (const wire::Outcome& outcome : frame.outcomes) {
    if (outcome.token < 0) continue;
    tokens_.push_back({at, outcome.session});
    if (--talks_.at(outcome.session).tokens_left > 0) feed(outcome.session, {outcome.token}, at);
  }
}

/// Frames for an agent's own entry take no hop.
void VirtualRoute::send(agent::Outgoing out, Time at) {
  const bool local = std::holds_alternative<wire::TokenFrame>(out.frame) && shape_.stages == 1;
  under_way_.emplace(local ? at : at + shape_.hop, std::move(out));
}

void VirtualRoute::run_batch(std::uint32_t index, Time at) {
  Stage& stage = stages_[index];
  now_ = at;
  std::vector<agent::Outgoing> out;
  const agent::StageWork before = stage.runner->work();
  stage.runner->step(out, agent::Runner::TimePoint(at));
  const agent::StageWork& after = stage.runner->work();
  if (after.batches > before.batches) {
    batches_.push_back({at, now_, index,
                        static_cast<std::uint32_t>(after.decode_rows - before.decode_rows),
                        static_cast<std::uint32_t>(after.prefill_rows - before.prefill_rows)});
  }
  stage.free_at = now_;
  ended_ = std::max(ended_, now_);
  for (agent::Outgoing& outgoing : out) {
    ASSERT_FALSE(std::holds_alternative<wire::ErrorFrame>(outgoing.frame));
    send(std::move(outgoing), stage.free_at);
  }
}

void VirtualRoute::run() {
  while (true) {
    // What comes first: a frame that arrives, or a stage that can begin a batch.
    Time next = under_way_.empty() ? Time::max() : under_way_.begin()->first;
    std::optional<std::uint32_t> able;
    for (std::uint32_t i = 0; i < stages_.size(); ++i) {
      if (stages_[i].runner->idle() || stages_[i].free_at >= next) continue;
      next = stages_[i].free_at;
      able = i;
    }
    if (able) {
      run_batch(*able, next);
    } else if (!under_way_.empty()) {
      auto arrival = under_way_.extract(under_way_.begin());
      std::vector<agent::Outgoing> refused;
      if (auto* work = std::get_if<wire::WorkFrame>(&arrival.mapped().frame)) {
        Stage& stage = stages_[arrival.mapped().to];
        // Whoever was idle begins when there is something to do.
        if (stage.runner->idle()) stage.free_at = std::max(stage.free_at, arrival.key());
        stage.runner->accept(std::move(*work), refused);
      } else if (const auto* tokens = std::get_if<wire::TokenFrame>(&arrival.mapped().frame)) {
        on_tokens(*tokens, arrival.key());
      }
      ASSERT_TRUE(refused.empty());
    } else {
      return;
    }
  }
}

VirtualRoute::Time VirtualRoute::longest_gap(std::uint64_t session) const {
  std::optional<Time> last;
  Time longest{};
  for (const Token& token : tokens_) {
    if (token.session != session) continue;
    if (last) longest = std::max(longest, token.at - *last);
    last = token.at;
  }
  return longest;
}

double VirtualRoute::busy_share(std::uint32_t stage) const {
  Time busy{};
  for (const Batch& batch : batches_) {
    if (batch.stage == stage) busy += batch.end - batch.begin;
  }
  return static_cast<double>(busy.count()) / static_cast<double>(ended_.count());
}

}  // namespace ds4::test
