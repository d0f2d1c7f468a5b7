#pragma once
// Rotary positions: each adjacent pair of the last R values of a row turns by position x frequency.
//
// Layers without compression use the base frequencies as they are. Compressed layers use another
// base and YaRN: dimensions that turn often within the original context keep their frequency, those
// that turn seldom are slowed by the factor, and a ramp joins the two. Angles are computed in
// double precision, so a position of a million is as exact as the first.
#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/hyper_params.h"

namespace ds4 {

class Rope {
 public:
  /// Of layers with (compressed = true) or without compression.
  Rope(const HyperParams& params, bool compressed);

  /// R/2 pairs (cosine, sine) for one position; `table` holds R floats.
  void fill(std::uint32_t position, float* table) const;
  std::uint32_t dim() const { return 2 * static_cast<std::uint32_t>(frequency_.size()); }
  /// Of each pair: radians a position.
  std::span<const double> frequencies() const { return frequency_; }

  /// Turns the last R values of a row of `n` values forwards, or back.
  static void turn(float* row, std::uint32_t n, const float* table, std::uint32_t rope_dim);
  static void turn_back(float* row, std::uint32_t n, const float* table, std::uint32_t rope_dim);

 private:
  std::vector<double> frequency_;
};

}  // namespace ds4
