#pragma once
// From logits to one token. Random numbers are a pure function of (seed, position), so replaying a
// position after a failure gives the same token again.
//
// Order: logits / temperature, softmax, then top_k, top_p (of what top_k left) and min_p each cut
// the tail, and one draw among the rest. Ties are always broken towards the lower id, so that the
// cut does not depend on how the library sorts. Only as much is sorted as the cuts need.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace ds4 {

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

/// Uniform in [0, 1), a multiple of 2^-53: the upper 53 of the first 64 bits (little-endian words)
/// of Philox4x32-10 with the key `seed` and the counter `position`.
double uniform_at(std::uint64_t seed, std::uint64_t position);

/// Holds scratch memory for one vocabulary: one thread at a time, no allocation after construction.
class Sampler {
 public:
  explicit Sampler(std::uint32_t vocabulary);
  /// `logits` has `vocabulary` values; `position` is the sampled token's position in its session.
  /// Logits that are not finite are never chosen; if none is finite, token 0 with logprob NaN.
  SampledToken sample(std::span<const float> logits, const SamplingParams& params,
                      std::uint64_t position);

 private:
  std::int32_t draw(std::span<const float> logits, const SamplingParams& params, float peak,
                    double uniform);
  void sort_front(std::span<const float> logits, std::size_t from, std::size_t to);
  void keep_top_k(std::span<const float> logits, std::uint32_t top_k);
  void weigh(std::span<const float> logits, float temperature, float peak);
  void keep_top_p(std::span<const float> logits, float top_p);
  void keep_min_p(float min_p);

  std::vector<std::uint32_t> order_;  // ids still in play; sorted, most likely first, up to sorted_
  std::size_t sorted_ = 0;
  std::vector<float> weights_;  // [vocabulary] relative to the most likely token's 1
};

}  // namespace ds4
