#include "engine/quant/quant.h"

#include <cassert>
#include <cmath>
#include <cstring>

#include "engine/quant/float16.h"
#include "engine/quant/iq2_xxs.h"
#include "engine/quant/mxfp4.h"
#include "engine/quant/q2_k.h"
#include "engine/quant/q4_k.h"
#include "engine/quant/q8_0.h"

namespace ds4::quant {
namespace {

// Rows lie in a mapped file and blocks have odd sizes, so everything is copied out before use.
template <typename T>
T load(const std::byte* src) {
  T value;
  std::memcpy(&value, src, sizeof value);
  return value;
}

template <typename Block>
void decode_blocks(const std::byte* src, float* dst, std::uint32_t cols) {
  for (std::uint32_t i = 0; i < cols; i += Block::kValues, src += sizeof(Block)) {
    decode(load<Block>(src), dst + i);
  }
}

float largest_magnitude(const float* values, std::uint32_t n) {
  float largest = 0;
  for (std::uint32_t i = 0; i < n; ++i) largest = std::fmax(largest, std::fabs(values[i]));
  return largest;
}

BlockQ8_0 encode_q8_0(const float* src) {
  BlockQ8_0 block{};
  const float scale = largest_magnitude(src, 32) / 127.0f;
  block.d = float_to_half(scale);
  if (half_to_float(block.d) == 0) return block;
  for (std::uint32_t i = 0; i < 32; ++i) {
    block.q[i] = static_cast<std::int8_t>(std::lrint(src[i] / scale));
  }
  return block;
}

std::uint8_t nearest_e2m1(float doubled) {
  std::uint8_t best = 0;
  for (std::uint8_t code = 1; code < 16; ++code) {
    const float error = std::fabs(doubled - static_cast<float>(kMxfp4Doubled[code]));
    if (error < std::fabs(doubled - static_cast<float>(kMxfp4Doubled[best]))) best = code;
  }
  return best;
}

// The scale is the power of two that brings the largest value into [4, 8), whose top is cut to 6.
BlockMXFP4 encode_mxfp4(const float* src) {
  BlockMXFP4 block{};
  const float largest = largest_magnitude(src, 32);
  if (largest == 0) return block;
  const int code = std::ilogb(largest) - 2 + 127;
  block.e = static_cast<std::uint8_t>(code < 0 ? 0 : code);
  const float scale = e8m0_half_to_float(block.e);
  for (std::uint32_t i = 0; i < 16; ++i) {
    const int low = nearest_e2m1(src[i] / scale), high = nearest_e2m1(src[i + 16] / scale);
    block.qs[i] = static_cast<std::uint8_t>(low | (high << 4));
  }
  return block;
}

template <typename Block, typename Encode>
void encode_blocks(const float* src, std::byte* dst, std::uint32_t cols, Encode encode) {
  for (std::uint32_t i = 0; i < cols; i += Block::kValues, dst += sizeof(Block)) {
    const Block block = encode(src + i);
    std::memcpy(dst, &block, sizeof block);
  }
}

}  // namespace

std::uint32_t block_values(TensorType type) {
  switch (type) {
    case TensorType::kF32:
    case TensorType::kF16:
    case TensorType::kBF16:
      return 1;
    case TensorType::kQ8_0:
      return BlockQ8_0::kValues;
    case TensorType::kQ4_K:
      return BlockQ4K::kValues;
    case TensorType::kQ2_K:
      return BlockQ2K::kValues;
    case TensorType::kIQ2_XXS:
      return BlockIQ2XXS::kValues;
    case TensorType::kMXFP4:
      return BlockMXFP4::kValues;
    case TensorType::kI32:
      break;
  }
  return 0;
}

std::size_t row_bytes(TensorType type, std::uint32_t cols) {
  const std::size_t n = cols;
  switch (type) {
    case TensorType::kF32:
      return n * 4;
    case TensorType::kF16:
    case TensorType::kBF16:
      return n * 2;
    case TensorType::kQ8_0:
      return n / BlockQ8_0::kValues * sizeof(BlockQ8_0);
    case TensorType::kQ4_K:
      return n / BlockQ4K::kValues * sizeof(BlockQ4K);
    case TensorType::kQ2_K:
      return n / BlockQ2K::kValues * sizeof(BlockQ2K);
    case TensorType::kIQ2_XXS:
      return n / BlockIQ2XXS::kValues * sizeof(BlockIQ2XXS);
    case TensorType::kMXFP4:
      return n / BlockMXFP4::kValues * sizeof(BlockMXFP4);
    case TensorType::kI32:
      break;
  }
  assert(!"a type without weights");
  return 0;
}

void dequantize_row(TensorType type, const std::byte* src, float* dst, std::uint32_t cols) {
  assert(block_values(type) != 0 && cols % block_values(type) == 0);
  switch (type) {
    case TensorType::kF32:
      std::memcpy(dst, src, cols * sizeof(float));
      return;
    case TensorType::kF16:
      for (std::uint32_t i = 0; i < cols; ++i)
        dst[i] = half_to_float(load<std::uint16_t>(src + 2 * i));
      return;
    case TensorType::kBF16:
      for (std::uint32_t i = 0; i < cols; ++i)
        dst[i] = bf16_to_float(load<std::uint16_t>(src + 2 * i));
      return;
    case TensorType::kQ8_0:
      return decode_blocks<BlockQ8_0>(src, dst, cols);
    case TensorType::kQ4_K:
      return decode_blocks<BlockQ4K>(src, dst, cols);
    case TensorType::kQ2_K:
      return decode_blocks<BlockQ2K>(src, dst, cols);
    case TensorType::kIQ2_XXS:
      return decode_blocks<BlockIQ2XXS>(src, dst, cols);
    case TensorType::kMXFP4:
      return decode_blocks<BlockMXFP4>(src, dst, cols);
    case TensorType::kI32:
      return;
  }
}

bool quantize_row(TensorType type, const float* src, std::byte* dst, std::uint32_t cols) {
  switch (type) {
    case TensorType::kF32:
      std::memcpy(dst, src, cols * sizeof(float));
      return true;
    case TensorType::kF16:
    case TensorType::kBF16:
      for (std::uint32_t i = 0; i < cols; ++i) {
        const std::uint16_t bits =
            type == TensorType::kF16 ? float_to_half(src[i]) : float_to_bf16(src[i]);
        std::memcpy(dst + 2 * i, &bits, sizeof bits);
      }
      return true;
    case TensorType::kQ8_0:
      encode_blocks<BlockQ8_0>(src, dst, cols, encode_q8_0);
      return true;
    case TensorType::kMXFP4:
      encode_blocks<BlockMXFP4>(src, dst, cols, encode_mxfp4);
      return true;
    default:
      return false;
  }
}

}  // namespace ds4::quant
