#include "tests/engine/cuda/host_products.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "engine/quant/float16.h"
#include "engine/quant/iq2_xxs.h"
#include "engine/quant/q2_k.h"
#include "engine/quant/q4_k.h"
#include "engine/quant/q8_0.h"
#include "engine/quant/quant.h"

namespace ds4::test {
namespace {

/// `count` values as integers of one scale, which is returned.
float to_integers(const float* values, std::uint32_t count, int* q) {
  float most = 0;
  for (std::uint32_t i = 0; i < count; ++i) most = std::max(most, std::fabs(values[i]));
  const bool none = most < 0x1p-100f;
  const float inverse = none ? 0 : 16319.0f / most;
  for (std::uint32_t i = 0; i < count; ++i)
    q[i] = static_cast<int>(std::nearbyint(values[i] * inverse));
  return none ? 0 : most / 16319.0f;
}

void append(HostWeights& to, const quant::BlockQ8_0& block) {
  to.w.insert(to.w.end(), block.q, block.q + 32);
  to.scale.push_back(quant::half_to_float(block.d));
}
void append(HostWeights& to, const quant::BlockQ4K& block) {
  for (std::uint32_t group = 0; group < 8; ++group) {
    const quant::ScaleMin sm = quant::scale_and_min(block, group);
    to.scale.push_back(quant::half_to_float(block.d) * static_cast<float>(sm.scale));
    to.minimum.insert(to.minimum.end(), 2, sm.min);
    for (std::uint32_t i = 0; i < 32; ++i)
      to.w.push_back(block.qs[32 * (group / 2) + i] >> (4 * (group % 2)) & 15);
  }
  to.dmin.push_back(quant::half_to_float(block.dmin));
}
void append(HostWeights& to, const quant::BlockQ2K& block) {
  for (std::uint32_t i = 0; i < 256; ++i) {
    const int q = block.qs[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4)) & 3;
    to.w.push_back(q * (block.scales[i / 16] & 15));
    if (i % 16 == 0) to.minimum.push_back(block.scales[i / 16] >> 4);
    if (i % 32 == 0) to.scale.push_back(quant::half_to_float(block.d));
  }
  to.dmin.push_back(quant::half_to_float(block.dmin));
}
void append(HostWeights& to, const quant::BlockIQ2XXS& block) {
  for (std::uint32_t group = 0; group < 8; ++group) {
    const std::uint16_t* qs = block.qs + 4 * group;
    const std::uint32_t tail = qs[2] | std::uint32_t{qs[3]} << 16;
    to.scale.push_back(quant::half_to_float(block.d) *
                       (static_cast<float>(2 * (tail >> 28) + 1) / 8));
    for (std::uint32_t v = 0; v < 4; ++v) {
      const std::uint16_t grid = quant::kIq2XxsGrid[qs[v / 2] >> (8 * (v % 2)) & 255];
      const std::uint8_t signs = quant::iq2_signs(tail >> (7 * v));
      for (std::uint32_t i = 0; i < 8; ++i) {
        const int magnitude = quant::kIq2Magnitudes[grid >> (2 * i) & 3];
        to.w.push_back((signs >> i & 1) != 0 ? -magnitude : magnitude);
      }
    }
  }
}

template <class Block>
HostWeights weights_in(std::span<const std::byte> row) {
  HostWeights weights;
  for (std::size_t at = 0; at < row.size(); at += sizeof(Block)) {
    Block block;
    std::memcpy(&block, row.data() + at, sizeof(block));
    append(weights, block);
  }
  return weights;
}

}  // namespace

HostIntegers integers_of(std::span<const float> values, std::uint32_t rows, std::uint32_t cols) {
  HostIntegers x{rows, cols, std::vector<int>(values.size()), {}, {}, {}};
  for (std::size_t at = 0; at < values.size(); at += 32)
    x.scale.push_back(to_integers(values.data() + at, 32, x.q.data() + at));
  if (cols % 256 != 0) return x;
  for (std::size_t at = 0; at < values.size(); at += 256) {
    float sums[16];
    for (std::size_t j = 0; j < 16; ++j) {
      int sum = 0;
      for (std::size_t i = 0; i < 16; ++i) sum += x.q[at + 16 * j + i];
      sums[j] = x.scale[(at + 16 * j) / 32] * static_cast<float>(sum);
    }
    x.sum.resize(x.sum.size() + 16);
    x.sum_scale.push_back(to_integers(sums, 16, x.sum.data() + x.sum.size() - 16));
  }
  return x;
}

HostWeights weights_of(TensorType type, std::span<const std::byte> row, std::uint32_t cols) {
  row = row.first(quant::row_bytes(type, cols));
  switch (type) {
    case TensorType::kQ8_0:
      return weights_in<quant::BlockQ8_0>(row);
    case TensorType::kQ4_K:
      return weights_in<quant::BlockQ4K>(row);
    case TensorType::kQ2_K:
      return weights_in<quant::BlockQ2K>(row);
    case TensorType::kIQ2_XXS:
      return weights_in<quant::BlockIQ2XXS>(row);
    default:
      return {};
  }
}

float multiply(const HostWeights& weights, const HostIntegers& x, std::uint32_t row) {
  constexpr std::uint32_t kSegment = 512;
  const int* q = x.q.data() + std::size_t{row} * x.cols;
  const float* scale = x.scale.data() + std::size_t{row} * x.cols / 32;
  float total = 0, sum = 0;
  for (std::uint32_t column = 0; column < x.cols; column += 32) {
    std::int64_t d = 0;
    for (std::uint32_t i = column; i < column + 32; ++i) d += std::int64_t{weights.w[i]} * q[i];
    sum = std::fma(static_cast<float>(d), weights.scale[column / 32] * scale[column / 32], sum);
    const std::uint32_t end = column + 32;
    if (end % 256 == 0 && !weights.dmin.empty()) {
      const std::uint32_t block = end / 256 - 1;
      std::int64_t m = 0;
      for (std::uint32_t j = 0; j < 16; ++j)
        m += std::int64_t{weights.minimum[16 * block + j]} *
             x.sum[std::size_t{row} * x.cols / 16 + 16 * block + j];
      const float sum_scale = x.sum_scale[std::size_t{row} * x.cols / 256 + block];
      sum = std::fma(static_cast<float>(m), -(weights.dmin[block] * sum_scale), sum);
    }
    if (end % kSegment != 0 && end != x.cols) continue;
    total += sum;
    sum = 0;
  }
  return total;
}

std::vector<std::byte> random_weights(TensorType type, std::uint32_t rows, std::uint32_t cols,
                                      std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(rows * quant::row_bytes(type, cols));
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  const float size = 1 / std::sqrt(static_cast<float>(cols));
  const auto each = [&](auto block, auto set) {
    for (std::size_t at = 0; at < bytes.size(); at += sizeof(block)) {
      std::memcpy(&block, bytes.data() + at, sizeof(block));
      set(block, size * (0.5f + static_cast<float>(random() % 1024) / 1024));
      std::memcpy(bytes.data() + at, &block, sizeof(block));
    }
  };
  using quant::float_to_half;
  if (type == TensorType::kQ8_0)
    each(quant::BlockQ8_0{}, [](auto& b, float d) { b.d = float_to_half(d / 74); });
  if (type == TensorType::kQ4_K)
    each(quant::BlockQ4K{},
         [](auto& b, float d) { b.d = float_to_half(d / 256), b.dmin = float_to_half(d / 32); });
  if (type == TensorType::kQ2_K)
    each(quant::BlockQ2K{},
         [](auto& b, float d) { b.d = float_to_half(d / 16), b.dmin = float_to_half(d / 8); });
  if (type == TensorType::kIQ2_XXS)
    each(quant::BlockIQ2XXS{}, [](auto& b, float d) { b.d = float_to_half(d / 64); });
  return bytes;
}

std::vector<float> random_values(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values)
    v = quant::half_to_float(
        quant::float_to_half(normal(random) * (random() % 100 == 0 ? 30.0f : 1.0f)));
  return values;
}

}  // namespace ds4::test
