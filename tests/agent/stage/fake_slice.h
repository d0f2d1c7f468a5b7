#pragma once
// A slice of exact integer arithmetic: each layer keeps one number per session and mixes it with
// every row that passes, so that a row computed out of order, twice, for another session or with
// another's streams changes everything after it. Floats hold integers below 2^24, so equality is
// exact.
#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/model/slice.h"

namespace ds4::test {

/// Shared by the test and the slice, which the stage owns.
struct FakeControl {
  struct Call {
    std::vector<SessionId> sessions;
    std::vector<std::uint32_t> rows;
    std::vector<LogitsWanted> logits;
  };

  std::atomic<bool> fail_all{false};
  std::atomic<int> misplaced_rows{0};  // streams that belong to another token or position

  /// While closed, forward() waits inside.
  void close_gate();
  void open_gate();
  void pass_gate();
  void wait_until_inside();

  void record(Call call);
  std::vector<Call> calls() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool gate_closed_ = false;
  bool inside_ = false;
  std::vector<Call> calls_;
};

struct FakeOptions {
  std::uint32_t first_layer = 0;
  std::uint32_t last_layer = 5;
  bool output = true;
  std::uint32_t max_rows = 16;
  std::uint64_t kv_budget_positions = 1U << 20;        // over all sessions' contexts
  std::function<void(std::uint32_t rows)> spend = {};  // is what a forward() takes
  bool hands_out = true;                               // detach_session() and restore_session()
  std::function<void()> on_detach = {};
};

inline constexpr std::uint32_t kFakeLayers = 6;
inline constexpr std::uint32_t kFakeVocabulary = 50;

class FakeSlice final : public Slice {
 public:
  FakeSlice(const FakeOptions& options, std::shared_ptr<FakeControl> control);

  const HyperParams& params() const override { return params_; }
  const LayerRange& range() const override { return range_; }
  std::uint32_t max_rows() const override { return options_.max_rows; }
  Result<void> open_session(SessionId session, std::uint32_t context) override;
  void close_session(SessionId session) override;
  Result<void> fork_session(SessionId source, SessionId target) override;
  Result<std::unique_ptr<DetachedSession>> detach_session(SessionId session) override;
  Result<void> restore_session(SessionId session, std::uint32_t context, std::uint32_t position,
                               const SessionSource& source) override;
  Result<std::uint32_t> position(SessionId session) const override;
  Result<void> forward(const SliceInput& input, const SliceOutput& output) override;
  std::uint64_t kv_bytes() const override { return positions_reserved() * 8; }
  std::uint64_t kv_bytes_for(std::uint32_t context) const override { return context * 8ULL; }

 private:
  struct Cache {
    std::uint32_t context = 0;
    std::uint32_t position = 0;
    std::vector<std::uint32_t> layers;
  };

  std::uint64_t positions_reserved() const;
  Result<void> check(const SliceInput& input, const SliceOutput& output) const;
  std::uint32_t run_row(Cache& cache, std::int32_t token, const float* in);

  FakeOptions options_;
  std::shared_ptr<FakeControl> control_;
  HyperParams params_;
  LayerRange range_;
  std::map<SessionId, Cache> caches_;
};

/// What a whole model answers greedily, token by token and alone: the truth every arrangement must
/// reach.
std::vector<std::int32_t> greedy_answer(const std::vector<std::int32_t>& prompt,
                                        std::size_t tokens);

}  // namespace ds4::test
