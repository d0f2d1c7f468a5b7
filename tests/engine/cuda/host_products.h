#pragma once
// Products in integers, written once more for the host: engine/cuda/kernels/quantised.cuh in plain
// C++ and from the block structures of engine/quant. Kernels must give the same bits.
#include <cstdint>
#include <span>
#include <vector>

#include "engine/gguf/tensor_type.h"

namespace ds4::test {

/// Rows of activations as integers: [rows][cols], and a scale of each 32; the sums of 16, [rows]
/// [cols / 16], and a scale of 16 sums (empty if cols is not a multiple of 256).
struct HostIntegers {
  std::uint32_t rows = 0, cols = 0;
  std::vector<int> q, sum;
  std::vector<float> scale, sum_scale;
};
HostIntegers integers_of(std::span<const float> values, std::uint32_t rows, std::uint32_t cols);

/// A row's blocks as integers: the weights; a scale of each 32; of formats with minimums also an m
/// of each 16 columns and a scale of each 256.
struct HostWeights {
  std::vector<int> w, minimum;
  std::vector<float> scale, dmin;
};
HostWeights weights_of(TensorType type, std::span<const std::byte> row, std::uint32_t cols);

/// Their product with one row of activations.
float multiply(const HostWeights& weights, const HostIntegers& x, std::uint32_t row);

/// Random blocks whose values are of the size 1 / sqrt(cols).
std::vector<std::byte> random_weights(TensorType type, std::uint32_t rows, std::uint32_t cols,
                                      std::uint32_t seed);
/// Random values that are halves; here and there one that is much larger than its neighbours.
std::vector<float> random_values(std::size_t count, std::uint32_t seed);

}  // namespace ds4::test
