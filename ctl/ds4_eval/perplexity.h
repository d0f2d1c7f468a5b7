#pragma once
// Perplexity: how surprised the model is by a text, exp of the mean negative log-likelihood.
#include <cstdint>
#include <span>

#include "ctl/ds4_eval/slice_chain.h"

namespace ds4::eval {

struct Perplexity {
  double nll_sum = 0;        // natural log
  std::uint64_t scored = 0;  // tokens
  double mean_nll() const;
  double value() const;
};

/// -log softmax(logits)[token], computed in double.
double negative_log_likelihood(std::span<const float> logits, std::int32_t token);

/// Scores tokens[1..] each after all that stand before it, in a session of its own.
Result<Perplexity> score(SliceChain& chain, std::span<const std::int32_t> tokens);

}  // namespace ds4::eval
