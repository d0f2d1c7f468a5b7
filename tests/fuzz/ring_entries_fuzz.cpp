// A client's memory as the fuzzer likes it, read by the very Session that the server runs. The
// input is a little program: entries, tokens and positions that a client writes, mixed with the
// agent's turns and answers. What must hold whatever it does is checked by CHECK.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <span>

#include "ipc/server/session.h"

namespace {

using namespace ds4::ipc;

#define CHECK(condition)                                       \
  do {                                                         \
    if (!(condition)) {                                        \
      std::fprintf(stderr, "does not hold: %s\n", #condition); \
      std::abort();                                            \
    }                                                          \
  } while (false)

constexpr RegionShape kShape{
    .submission_entries = 8, .completion_entries = 16, .arena_tokens = 1024};
constexpr RequestLimits kLimits{
    .vocabulary = 50, .context = 1500, .max_requests = 3, .max_stop_tokens = 4};

/// Bytes of the input, then zeros.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}
  bool done() const { return rest_.empty(); }
  template <typename T>
  T take() {
    T value{};
    const std::size_t n = std::min(sizeof(T), rest_.size());
    std::memcpy(&value, rest_.data(), n);
    rest_ = rest_.subspan(n);
    return value;
  }

 private:
  std::span<const std::uint8_t> rest_;
};

struct Handler final : Session::Sink {
  void on_request(Request request) override {
    if (const auto* generate = std::get_if<GenerateRequest>(&request)) {
      CHECK(generate->id > last_id);
      last_id = generate->id;
      CHECK(generate->prompt.size() <= kLimits.context);
      CHECK(!generate->prompt.empty() || generate->session_id != 0);
      CHECK(generate->stop.size() <= kLimits.max_stop_tokens);
      for (const auto token : generate->prompt) CHECK(token >= 0 && token < 50);
      for (const auto token : generate->stop) CHECK(token >= 0 && token < 50);
      CHECK(generate->sampling.temperature >= 0 &&
            generate->sampling.temperature <= kMaxTemperature);
      CHECK(generate->sampling.top_p > 0 && generate->sampling.top_p <= 1);
      CHECK(generate->sampling.min_p >= 0 && generate->sampling.min_p < 1);
      active.insert(generate->id);
    } else if (const auto* close = std::get_if<CloseSessionRequest>(&request)) {
      on_session_op(close->id, close->session_id);
    } else if (const auto* fork = std::get_if<ForkSessionRequest>(&request)) {
      on_session_op(fork->id, fork->session_id);
    } else {
      CHECK(active.contains(std::get<CancelRequest>(request).id));
    }
    CHECK(active.size() <= kLimits.max_requests);
  }
  void on_space() override {}
  void on_session_op(std::uint64_t id, std::uint64_t session) {
    CHECK(id > last_id && session != 0);
    last_id = id;
    active.insert(id);
  }
  std::set<std::uint64_t> active;
  std::uint64_t last_id = 0;
};

class Play {
 public:
  Play() {
    auto created = Region::create(kShape);
    CHECK(created);
    session_ = std::make_unique<Session>(std::move(created->region), kLimits, &budget_);
  }

  void step(Input& in) {
    switch (in.take<std::uint8_t>() % 10) {
      case 0:
        return push(raw_entry(in));
      case 1:
        return push(likely_entry(in));
      case 2:
        return scribble(in);
      case 3:
        return write_arena(in);
      case 4:
        return turn();
      case 5:
        return answer(in);
      case 6:
        return drain();
      case 7:
        session_->flush();
        return;
      case 8:
        session_->can_take();
        return;
      case 9:
        region().header().client_wants = in.take<std::uint32_t>();
        return;
    }
  }
  bool broken() const { return session_->broken().has_value(); }

 private:
  const Region& region() const { return session_->region(); }

  static SubmissionEntry raw_entry(Input& in) { return in.take<SubmissionEntry>(); }

  /// One that has a chance: the next id, the right place in the arena.
  SubmissionEntry likely_entry(Input& in) {
    SubmissionEntry entry;
    entry.op = in.take<std::uint8_t>() % 6;
    if (entry.op != static_cast<std::uint16_t>(Op::kGenerate)) entry.top_p = 0;
    entry.request_id = id_ += in.take<std::uint8_t>() % 2;
    if (entry.op >= static_cast<std::uint16_t>(Op::kCloseSession)) entry.session_id = 1;
    if (entry.op > 2) return entry;
    entry.arena_begin = arena_tail_;
    entry.prompt_tokens = in.take<std::uint16_t>() % 600;
    if (entry.op == 1) {
      entry.flags = in.take<std::uint8_t>();
      entry.stop_tokens = in.take<std::uint8_t>() % 6;
      entry.max_tokens = in.take<std::uint8_t>();
    }
    arena_tail_ += entry.prompt_tokens + entry.stop_tokens;
    return entry;
  }

  void push(const SubmissionEntry& entry) {
    const RingMemory ring = region().submissions();
    std::memcpy(ring.slots + tail_ % ring.entries * (sizeof(entry) / 8), &entry, sizeof(entry));
    *ring.tail = ++tail_;
  }

  void scribble(Input& in) {
    RegionHeader& header = region().header();
    std::uint64_t* words[] = {&header.submission_tail, &header.submission_head, &header.arena_head,
                              &header.completion_tail, &header.completion_head};
    *words[in.take<std::uint8_t>() % 5] = in.take<std::uint64_t>();
    header.agent_wants = in.take<std::uint8_t>();
  }

  void write_arena(Input& in) {
    const auto at = in.take<std::uint16_t>() % kShape.arena_tokens;
    region().arena()[at] = in.take<std::int32_t>();
  }

  void turn() {
    session_->turn(handler_);
    CHECK(session_->requests_in_flight() == handler_.active.size());
    CHECK(session_->queued() < 200);
    CHECK(budget_.used() <= kLimits.context);
  }

  void answer(Input& in) {
    const std::uint64_t id = in.take<std::uint8_t>();
    if (session_->broken()) return;
    switch (in.take<std::uint8_t>() % 3) {
      case 0:
        return session_->token(id, 1, 2, 3);
      case 1:
        return session_->progress(id, 1, 2);
      case 2:
        break;
    }
    Server::Final final;
    final.status = Status{in.take<std::uint16_t>()};
    final.sentence = std::string(in.take<std::uint8_t>(), 'x');
    session_->finish(id, final);
    handler_.active.erase(id);
  }

  void drain() {
    RegionHeader& header = region().header();
    header.completion_head = header.completion_tail;
  }

  TokenBudget budget_{1U << 20};  // outlives the session
  std::unique_ptr<Session> session_;
  Handler handler_;
  std::uint64_t id_ = 0;
  std::uint64_t tail_ = 0;
  std::uint64_t arena_tail_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  Play play;
  while (!in.done() && !play.broken()) play.step(in);
  return 0;
}
