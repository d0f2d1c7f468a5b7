#pragma once
// Q2_K: 256 values in 16 groups of 16; value = d * scale[g] * q - dmin * min[g] with q in 0..3 and
// 4-bit scales and minimums. 2.625 bits a value. Layout: ggml's block_q2_K.
#include <cstdint>

#include "engine/quant/float16.h"

namespace ds4::quant {

struct BlockQ2K {
  static constexpr std::uint32_t kValues = 256;
  std::uint8_t scales[16];  // group g: scale low, minimum high
  std::uint8_t qs[64];      // value 128h + 32j + i: byte 32h + i, bits 2j and 2j + 1
  std::uint16_t d;          // binary16, scale of the scales
  std::uint16_t dmin;       // binary16, scale of the minimums
};
static_assert(sizeof(BlockQ2K) == 84 && alignof(BlockQ2K) == 2);

inline void decode(const BlockQ2K& block, float* out) {
  const float d = half_to_float(block.d), dmin = half_to_float(block.dmin);
  for (std::uint32_t i = 0; i < BlockQ2K::kValues; ++i) {
    const std::uint8_t sm = block.scales[i / 16];
    const std::uint32_t q = (block.qs[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3;
    out[i] = d * static_cast<float>(sm & 15) * static_cast<float>(q) -
             dmin * static_cast<float>(sm >> 4);
  }
}

}  // namespace ds4::quant
