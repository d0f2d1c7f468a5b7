#pragma once
// From logits to one token. Random numbers are a pure function of (seed, position), so replaying a
// position after a failure gives the same token again.
#include <cstdint>
#include <span>
#include <vector>

namespace ds4 {

struct SamplingParams {
  float temperature = 0;   // 0: greedy (ties go to the lower id)
  float top_p = 1;         // 1: off
  float min_p = 0;         // 0: off; relative to the most likely token
  std::uint32_t top_k = 0; // 0: off
  std::uint64_t seed = 0;
  bool operator==(const SamplingParams&) const = default;
};

struct SampledToken {
  std::int32_t token = 0;
  float logprob = 0;  // natural log of the softmax at temperature 1, before any truncation
};

/// Uniform in [0, 1) from a counter-based generator.
double uniform_at(std::uint64_t seed, std::uint64_t position);

class Sampler {
 public:
  explicit Sampler(std::uint32_t vocabulary);
  /// `logits` has `vocabulary` values; `position` is the sampled token's position in its session.
  /// Logits that are not finite are never chosen; if none is finite, token 0 with logprob NaN.
  SampledToken sample(std::span<const float> logits, const SamplingParams& params,
                      std::uint64_t position);

 private:
  std::vector<std::uint32_t> order_;
  std::vector<float> weights_;
};

}  // namespace ds4
