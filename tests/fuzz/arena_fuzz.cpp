// The token arena from both ends. The agent's reading: prompts in parts, wrapped and refused,
// against an oracle that knows what was written where. The library's writing: an agent whose arena
// position says anything. The first byte chooses.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "ipc/client/outbox.h"
#include "ipc/server/intake.h"

namespace {

using namespace ds4::ipc;

#define CHECK(condition) \
  if (!(condition)) std::abort()

constexpr RequestLimits kLimits{
    .vocabulary = 1000, .context = 4000, .max_requests = 4, .max_stop_tokens = 4};
constexpr RegionShape kShape{
    .submission_entries = 8, .completion_entries = 8, .arena_tokens = 1024};

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}
  bool done() const { return rest_.empty(); }
  template <typename T>
  T take() {
    T value{};
    const std::size_t n = std::min(sizeof(value), rest_.size());
    std::memcpy(&value, rest_.data(), n);
    rest_ = rest_.subspan(n);
    return value;
  }

 private:
  std::span<const std::uint8_t> rest_;
};

/// A polite client's tokens, with hostile ones between, read back by the agent.
class Reading {
 public:
  Reading() {
    auto created = Region::create(kShape);
    CHECK(created);
    region_ = std::move(created->region);
    intake_ = std::make_unique<Intake>(region_, kLimits, &budget_);
    ring_ = RingProducer<SubmissionEntry>(region_.submissions());
  }

  void step(Input& in) {
    switch (in.take<std::uint8_t>() % 4) {
      case 0:
        return send(in, Op::kPromptPart);
      case 1:
        return send(in, Op::kGenerate);
      case 2:
        return read();
      case 3:
        return lie(in);
    }
  }
  bool broken() const { return intake_->broken(); }

 private:
  struct Expected {
    std::uint64_t id;
    std::vector<std::int32_t> prompt;
    std::vector<std::int32_t> stop;
  };

  void send(Input& in, Op op) {
    SubmissionEntry entry;
    entry.op = static_cast<std::uint16_t>(op);
    entry.request_id = next_id_;
    entry.arena_begin = tail_;
    entry.prompt_tokens = in.take<std::uint16_t>() % 700;
    const auto stops = op == Op::kGenerate ? in.take<std::uint8_t>() % 6U : 0U;
    entry.stop_tokens = stops;
    if (op != Op::kGenerate) entry.top_p = 0;
    if (tail_ + entry.prompt_tokens + stops - head() > kShape.arena_tokens || ring_.space() == 0)
      return;
    const auto first = in.take<std::int32_t>() % 1100;  // some are outside the vocabulary
    for (std::uint32_t i = 0; i < entry.prompt_tokens; ++i) arriving_.prompt.push_back(put(first));
    for (std::uint32_t i = 0; i < stops; ++i) arriving_.stop.push_back(put(first / 2));
    CHECK(ring_.push(entry));
    ring_.publish();
    if (op != Op::kGenerate) return;
    arriving_.id = next_id_++;
    expected_.push_back(std::exchange(arriving_, {}));
  }

  std::int32_t put(std::int32_t token) {
    region_.arena()[tail_++ % kShape.arena_tokens] = token;
    return token;
  }
  std::uint64_t head() const { return region_.header().arena_head; }

  void read() {
    for (;;) {
      const Intake::Step step = intake_->next();
      CHECK(intake_->last_tokens() <= kShape.arena_tokens);
      if (step.what == Intake::What::kNothing || step.what == Intake::What::kBroken) break;
      if (step.what == Intake::What::kAbsorbed) continue;
      const bool taken = step.what == Intake::What::kRequest;
      const auto* generate = taken ? std::get_if<GenerateRequest>(&step.request) : nullptr;
      if (!honest_) continue;
      CHECK(!expected_.empty());
      if (taken) {
        CHECK(generate != nullptr && generate->id == expected_.front().id);
        CHECK(generate->prompt == expected_.front().prompt);
        CHECK(generate->stop == expected_.front().stop);
        CHECK(intake_->end(generate->id));
      } else {
        CHECK(step.id == expected_.front().id && !step.refusal.sentence.empty());
      }
      expected_.pop_front();
    }
    CHECK(budget_.used() <= kLimits.context);
    intake_->release_ordered();
  }

  /// From here on only what must never happen is looked for.
  void lie(Input& in) {
    honest_ = false;
    SubmissionEntry entry;
    entry.op = 1 + in.take<std::uint8_t>() % 2;
    entry.request_id = next_id_++;
    entry.arena_begin = in.take<std::uint8_t>() % 4 == 0 ? in.take<std::uint64_t>() : tail_;
    entry.prompt_tokens = in.take<std::uint32_t>();
    entry.stop_tokens = in.take<std::uint32_t>();
    if (ring_.push(entry)) ring_.publish();
    region_.header().arena_head = in.take<std::uint64_t>();
  }

  TokenBudget budget_{1U << 20};
  Region region_;
  std::unique_ptr<Intake> intake_;
  RingProducer<SubmissionEntry> ring_;
  std::uint64_t next_id_ = 1;
  std::uint64_t tail_ = 0;
  Expected arriving_;
  std::deque<Expected> expected_;
  bool honest_ = true;
};

/// The library's outbox below an agent that gives room back as it likes.
void write_against(Input& in) {
  auto created = Region::create(kShape);
  CHECK(created);
  Region region = std::move(created->region);
  Outbox outbox(region);
  std::uint64_t id = 0;
  while (!in.done() && !outbox.broken()) {
    switch (in.take<std::uint8_t>() % 5) {
      case 0: {
        SubmissionEntry entry;
        entry.op = static_cast<std::uint16_t>(Op::kGenerate);
        entry.request_id = ++id;
        outbox.add(entry, std::vector<std::int32_t>(in.take<std::uint16_t>() % 5000, 7), {1, 2});
        break;
      }
      case 1:
        outbox.cancel(in.take<std::uint8_t>());
        break;
      case 2:
        outbox.pump();
        break;
      case 3:
        region.header().submission_head = in.take<std::uint8_t>() % 8 == 0
                                              ? in.take<std::uint64_t>()
                                              : region.header().submission_tail;
        break;
      case 4:
        region.header().arena_head += in.take<std::uint16_t>();
        break;
    }
    CHECK(region.header().submission_entries == kShape.submission_entries);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  Input in(data + 1, size - 1);
  if (data[0] % 2 == 0) {
    write_against(in);
    return 0;
  }
  Reading reading;
  while (!in.done() && !reading.broken()) reading.step(in);
  return 0;
}
