#pragma once
// The conversations whose time `ds4-eval bench` takes.
#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include "ctl/ds4_eval/slice_chain.h"

namespace ds4::eval {

/// `sessions` conversations side by side: each reads `prompt` tokens, one conversation after the
/// other, then all make `generate` tokens, one of each in a pass, greedy, sampling included.
struct Conversations {
  std::uint32_t prompt = 0;
  std::uint32_t generate = 0;
  std::uint32_t sessions = 1;
};

struct Times {
  using Duration = std::chrono::steady_clock::duration;

  Duration prefill{};            // of all prompts
  std::vector<Duration> passes;  // one for each token of a conversation

  /// All conversations together.
  double prefill_tps(const Conversations& what) const;
  double decode_tps(const Conversations& what) const;
  /// Of the median pass.
  double ms_per_pass() const;
};

/// `prefilled` is called between the prompts and the first pass.
Result<Times> measure(SliceChain& chain, const Conversations& what,
                      const std::function<void()>& prefilled = {});

}  // namespace ds4::eval
