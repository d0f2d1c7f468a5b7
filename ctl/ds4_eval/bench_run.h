#pragma once
// The conversations whose time `ds4-eval bench` takes.
#include <cstdint>

#include "ctl/ds4_eval/slice_chain.h"

namespace ds4::eval {

struct Speeds {
  double prefill_tps = 0;
  double decode_tps = 0;
};

/// One conversation: `prompt` tokens, then `generate` greedy ones, one by one, sampling included.
Result<Speeds> measure_speeds(SliceChain& chain, std::uint32_t prompt, std::uint32_t generate);

struct ContextSpeed {
  std::uint32_t context = 0;
  double fill_tps = 0;
  double ms_per_token = 0;  // the median token's
};

/// Fills a cache with `context` positions, chunk by chunk, then times `generate` tokens. Filled
/// once only: that takes long, and a median over tokens is steady enough.
Result<ContextSpeed> measure_context(SliceChain& chain, std::uint32_t context,
                                     std::uint32_t generate);

}  // namespace ds4::eval
