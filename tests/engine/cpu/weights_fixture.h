#pragma once
// Matrices of every format with contents that a quantiser would write, or that nobody would.
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "engine/cpu/linear.h"

namespace ds4::cpu {

inline constexpr TensorType kBlockTypes[] = {TensorType::kQ8_0, TensorType::kQ4_K,
                                             TensorType::kQ2_K, TensorType::kIQ2_XXS,
                                             TensorType::kMXFP4};
inline constexpr TensorType kAllTypes[] = {
    TensorType::kF32,  TensorType::kF16,  TensorType::kBF16,    TensorType::kQ8_0,
    TensorType::kQ4_K, TensorType::kQ2_K, TensorType::kIQ2_XXS, TensorType::kMXFP4};

/// tame: random codes, scales near one. adversarial: scales that are zero, subnormal, negative or
/// as large as they can be with finite products, and blocks of all the lowest or all the highest
/// codes. hostile: random bytes, so that scales may be infinite or NaN.
enum class Contents { kTame, kAdversarial, kHostile };

struct TestMatrix {
  std::vector<std::byte> bytes;
  Matrix matrix;

  TestMatrix(TensorType type, std::uint32_t rows, std::uint32_t cols, Contents contents,
             std::uint32_t seed);
  /// The decoded row, by the format's own decoder.
  std::vector<float> row(std::uint32_t r) const;
  /// An upper bound of what the terms of each weight add up to in magnitude: |scale * q| + |min|.
  std::vector<float> row_magnitude(std::uint32_t r) const;
};

std::vector<float> random_floats(std::size_t n, std::uint32_t seed);

}  // namespace ds4::cpu
