#pragma once
// Stages in a row whose time is the test's: each batch takes what `cost` says, each frame `hop` to
// the next stage, and nothing else takes any time. So it can be asked when a token came.
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "agent/stage/runner.h"
#include "tests/agent/stage/fake_slice.h"

namespace ds4::test {

class VirtualRoute {
 public:
  using Time = std::chrono::nanoseconds;

  struct Shape {
    std::uint32_t stages = 2;  // 1, 2 or 3
    std::uint32_t max_rows = 512;
    std::chrono::milliseconds decode_wait{100};
    Time hop = std::chrono::microseconds(100);
    std::function<Time(std::uint32_t rows)> cost;
  };

  struct Token {
    Time at{};
    std::uint64_t session = 0;
  };
  struct Batch {
    Time begin{};
    Time end{};
    std::uint32_t stage = 0;
    std::uint32_t decode_rows = 0;
    std::uint32_t prefill_rows = 0;
  };

  explicit VirtualRoute(Shape shape);

  /// Reaches the first stage at `at`. With `answer`, each token is fed again, that often.
  void ask(std::uint64_t session, std::uint32_t prompt_tokens, std::uint32_t answer_tokens,
           Time at);
  /// Until nothing is under way.
  void run();

  const std::vector<Token>& tokens() const { return tokens_; }
  const std::vector<Batch>& batches() const { return batches_; }
  /// Longest pause between two tokens of `session`.
  Time longest_gap(std::uint64_t session) const;
  Time ended() const { return ended_; }
  /// Of the whole run, the share in which the stage computed.
  double busy_share(std::uint32_t stage) const;

 private:
  struct Stage {
    std::unique_ptr<FakeSlice> slice;
    std::unique_ptr<agent::Runner> runner;
    Time free_at{};
  };
  struct Talk {
    std::uint32_t position = 0;
    std::uint64_t hash = 0;
    std::uint32_t tokens_left = 0;
  };

  void feed(std::uint64_t session, std::vector<std::int32_t> tokens, Time at);
  void send(agent::Outgoing out, Time at);
  void on_tokens(const wire::TokenFrame& frame, Time at);
  void run_batch(std::uint32_t stage, Time at);

  Shape shape_;
  Time now_{};  // the clock of whichever stage computes
  std::vector<Stage> stages_;
  std::map<std::uint64_t, Talk> talks_;
  std::multimap<Time, agent::Outgoing> under_way_;
  std::vector<Token> tokens_;
  std::vector<Batch> batches_;
  Time ended_{};
};

}  // namespace ds4::test
