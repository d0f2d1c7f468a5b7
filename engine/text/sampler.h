#pragma once
// From logits to one token. Random numbers are a pure function of (seed, position), so replaying a
// position after a failure gives the same token again.
//
// Order: logits / temperature, softmax, then top_k, top_p (of what top_k left) and min_p each cut
// the tail, and one draw among the rest, by ascending id. Ties are always broken towards the lower
// id, so that a cut does not depend on how the library sorts. All sums are of whole numbers
// (draw.h), so a GPU that adds in another order draws the same token.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/cpu/isa.h"
#include "engine/text/draw.h"

namespace ds4 {

namespace cpu {
struct Ops;
}

struct SamplingParams {
  float temperature = 0;    // 0: greedy (ties go to the lower id)
  float top_p = 1;          // 1: off
  float min_p = 0;          // 0: off; relative to the most likely token
  std::uint32_t top_k = 0;  // 0: off
  std::uint64_t seed = 0;
  bool operator==(const SamplingParams&) const = default;
};

struct SampledToken {
  std::int32_t token = 0;
  float logprob = 0;  // natural log of the softmax at temperature 1, before any truncation
};

/// Uniform in [0, 1) in 2^-53ths: the upper 53 of the first 64 bits (little-endian words) of
/// Philox4x32-10 with the key `seed` and the counter `position`.
std::uint64_t uniform_at(std::uint64_t seed, std::uint64_t position);

/// `position` is that of the token to be sampled in its session.
Draw make_draw(const SamplingParams& params, std::uint64_t position);
/// Token 0 with logprob NaN if no logit was finite.
SampledToken to_token(const Pick& pick);

/// Holds scratch memory for one vocabulary: one thread at a time, no allocation after construction.
class Sampler {
 public:
  /// `isa` must be supported; the token does not depend on it.
  explicit Sampler(std::uint32_t vocabulary, cpu::Isa isa = cpu::choose_isa());
  /// `logits` has `vocabulary` values; `position` is the sampled token's position in its session.
  /// Logits that are not finite are never chosen; if none is finite, token 0 with logprob NaN.
  SampledToken sample(std::span<const float> logits, const SamplingParams& params,
                      std::uint64_t position) {
    return to_token(pick(logits, make_draw(params, position)));
  }
  Pick pick(std::span<const float> logits, const Draw& draw);

 private:
  struct Last;  // of the tokens that a cut keeps

  std::uint32_t choose(std::span<const float> logits, const Draw& draw);
  void sort_front(std::span<const float> logits, std::size_t from, std::size_t to);
  Last cut(std::span<const float> logits, const Draw& draw);

  const cpu::Ops* ops_;
  std::vector<std::uint32_t> order_;    // for cuts: the most likely first, as far as it is sorted
  std::vector<std::uint64_t> weights_;  // [vocabulary] 0 where a logit is not finite
};

}  // namespace ds4
