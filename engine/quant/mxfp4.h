#pragma once
// MXFP4: 32 values of 4 bits (E2M1: a sign and one of 0 .5 1 1.5 2 3 4 6) share a power-of-two
// scale (E8M0). 4.25 bits a value. The OCP microscaling format in ggml's layout (block_mxfp4); the
// table holds doubled values, so that they are integers, and the scale is halved to match.
#include <cstdint>

#include "engine/quant/float16.h"

namespace ds4::quant {

struct BlockMXFP4 {
  static constexpr std::uint32_t kValues = 32;
  std::uint8_t e;       // E8M0
  std::uint8_t qs[16];  // byte j: value j low, value j + 16 high
};
static_assert(sizeof(BlockMXFP4) == 17 && alignof(BlockMXFP4) == 1);

inline constexpr std::int8_t kMxfp4Doubled[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                                  0, -1, -2, -3, -4, -6, -8, -12};

inline void decode(const BlockMXFP4& block, float* out) {
  const float scale = e8m0_half_to_float(block.e);
  for (std::uint32_t i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>(kMxfp4Doubled[block.qs[i] & 15]);
    out[i + 16] = scale * static_cast<float>(kMxfp4Doubled[block.qs[i] >> 4]);
  }
}

}  // namespace ds4::quant
