#include "tests/engine/cpu/weights_fixture.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/quant/float16.h"
#include "engine/quant/iq2_xxs.h"
#include "engine/quant/mxfp4.h"
#include "engine/quant/q2_k.h"
#include "engine/quant/q4_k.h"
#include "engine/quant/q8_0.h"
#include "engine/quant/quant.h"

namespace ds4::cpu {
namespace {

using Rng = std::mt19937;

std::uint32_t below(Rng& rng, std::uint32_t n) {
  return static_cast<std::uint32_t>(rng() % n);
}

std::uint16_t random_half(Rng& rng, Contents contents) {
  if (contents == Contents::kHostile) return static_cast<std::uint16_t>(rng());
  if (contents == Contents::kAdversarial) {
    constexpr std::uint16_t kCorners[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400,
                                          0x7BFF, 0xFBFF, 0x3C00, 0xBC00, 0x1234, 0x5678};
    return kCorners[below(rng, std::size(kCorners))];
  }
  return quant::float_to_half(0.25f + static_cast<float>(below(rng, 1000)) * 1e-3f);
}

std::uint16_t random_bf16(Rng& rng, Contents contents, float tame) {
  if (contents == Contents::kHostile) return static_cast<std::uint16_t>(rng());
  if (contents == Contents::kTame) return quant::float_to_bf16(tame);
  constexpr std::uint16_t kCorners[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x007F,
                                        0x0080, 0x5F00, 0xDF00, 0x3F80, 0xBF80};
  return kCorners[below(rng, std::size(kCorners))];
}

// The codes behind the scales: random, or all the same.
void fill_codes(void* codes, std::size_t n, Rng& rng, Contents contents) {
  auto* bytes = static_cast<std::uint8_t*>(codes);
  const std::uint32_t kind = contents == Contents::kAdversarial ? below(rng, 4) : 3;
  constexpr std::uint8_t kSame[] = {0x00, 0xFF, 0x80};
  for (std::size_t i = 0; i < n; ++i)
    bytes[i] = kind == 3 ? static_cast<std::uint8_t>(rng()) : kSame[kind];
}

template <typename Block>
void fill_block(Block& block, Rng& rng, Contents contents) {
  if constexpr (std::is_same_v<Block, quant::BlockQ8_0>) {
    fill_codes(block.q, sizeof block.q, rng, contents);
    block.d = random_half(rng, contents);
  } else if constexpr (std::is_same_v<Block, quant::BlockMXFP4>) {
    fill_codes(block.qs, sizeof block.qs, rng, contents);
    block.e = static_cast<std::uint8_t>(rng());
    // Beyond 240 sums of products overflow, as the decoder itself does at 253.
    if (contents == Contents::kTame) block.e = static_cast<std::uint8_t>(124 + below(rng, 8));
    if (contents == Contents::kAdversarial && block.e > 240)
      block.e = static_cast<std::uint8_t>(block.e % 4);
  } else if constexpr (std::is_same_v<Block, quant::BlockIQ2XXS>) {
    fill_codes(block.qs, sizeof block.qs, rng, contents);
    block.d = random_half(rng, contents);
  } else {
    fill_codes(block.scales, sizeof block.scales, rng, contents);
    fill_codes(block.qs, sizeof block.qs, rng, contents);
    block.d = random_half(rng, contents);
    block.dmin = random_half(rng, contents);
  }
}

template <typename Block>
void fill_blocks(std::vector<std::byte>& bytes, Rng& rng, Contents contents) {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(Block)) {
    Block block{};
    fill_block(block, rng, contents);
    std::memcpy(bytes.data() + at, &block, sizeof block);
  }
}

void fill_floats(TensorType type, std::vector<std::byte>& bytes, Rng& rng, Contents contents) {
  const std::size_t width = type == TensorType::kF32 ? 4 : 2;
  for (std::size_t at = 0; at < bytes.size(); at += width) {
    const float value = (static_cast<float>(below(rng, 2001)) - 1000.0f) * 1e-3f;
    std::uint32_t bits = 0;
    if (type == TensorType::kF32) {
      bits = contents == Contents::kTame ? std::bit_cast<std::uint32_t>(value)
                                         : std::uint32_t{random_bf16(rng, contents, value)} << 16;
    }
    if (type == TensorType::kBF16) bits = random_bf16(rng, contents, value);
    if (type == TensorType::kF16) {
      bits = contents == Contents::kTame ? quant::float_to_half(value) : random_half(rng, contents);
    }
    std::memcpy(bytes.data() + at, &bits, width);
  }
}

template <typename Block>
void make_terms_positive(std::byte* row, std::size_t row_bytes) {
  for (std::size_t at = 0; at < row_bytes; at += sizeof(Block)) {
    Block block;
    std::memcpy(&block, row + at, sizeof block);
    block.d = block.d & 0x7FFF;
    block.dmin = block.dmin | 0x8000;
    std::memcpy(row + at, &block, sizeof block);
  }
}

}  // namespace

TestMatrix::TestMatrix(TensorType type, std::uint32_t rows, std::uint32_t cols, Contents contents,
                       std::uint32_t seed)
    : bytes(rows * quant::row_bytes(type, cols)), matrix{type, rows, cols, bytes.data()} {
  Rng rng(seed);
  switch (type) {
    case TensorType::kQ8_0:
      fill_blocks<quant::BlockQ8_0>(bytes, rng, contents);
      break;
    case TensorType::kQ4_K:
      fill_blocks<quant::BlockQ4K>(bytes, rng, contents);
      break;
    case TensorType::kQ2_K:
      fill_blocks<quant::BlockQ2K>(bytes, rng, contents);
      break;
    case TensorType::kIQ2_XXS:
      fill_blocks<quant::BlockIQ2XXS>(bytes, rng, contents);
      break;
    case TensorType::kMXFP4:
      fill_blocks<quant::BlockMXFP4>(bytes, rng, contents);
      break;
    default:
      fill_floats(type, bytes, rng, contents);
      break;
  }
}

std::vector<float> TestMatrix::row(std::uint32_t r) const {
  std::vector<float> out(matrix.cols);
  const std::size_t row_bytes = quant::row_bytes(matrix.type, matrix.cols);
  quant::dequantize_row(matrix.type, bytes.data() + r * row_bytes, out.data(), matrix.cols);
  return out;
}

std::vector<float> TestMatrix::row_magnitude(std::uint32_t r) const {
  const std::size_t row_bytes = quant::row_bytes(matrix.type, matrix.cols);
  std::vector<std::byte> copy(row_bytes);
  std::memcpy(copy.data(), bytes.data() + r * row_bytes, row_bytes);
  if (matrix.type == TensorType::kQ4_K)
    make_terms_positive<quant::BlockQ4K>(copy.data(), row_bytes);
  if (matrix.type == TensorType::kQ2_K)
    make_terms_positive<quant::BlockQ2K>(copy.data(), row_bytes);
  std::vector<float> out(matrix.cols);
  quant::dequantize_row(matrix.type, copy.data(), out.data(), matrix.cols);
  for (float& value : out) value = std::fabs(value);
  return out;
}

std::vector<float> random_floats(std::size_t n, std::uint32_t seed) {
  Rng rng(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> out(n);
  for (float& value : out) value = normal(rng);
  return out;
}

}  // namespace ds4::cpu
