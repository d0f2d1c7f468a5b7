#pragma once
// Q4_K: 256 values in 8 groups of 32; value = d * scale[g] * q - dmin * min[g] with q in 0..15 and
// 6-bit scales and minimums. 4.5 bits a value. Layout: ggml's block_q4_K.
#include <cstdint>

#include "engine/quant/float16.h"

namespace ds4::quant {

struct BlockQ4K {
  static constexpr std::uint32_t kValues = 256;
  std::uint16_t d;          // binary16, scale of the scales
  std::uint16_t dmin;       // binary16, scale of the minimums
  std::uint8_t scales[12];  // see scale_and_min
  std::uint8_t qs[128];     // byte 32p + i: group 2p value i low, group 2p + 1 value i high
};
static_assert(sizeof(BlockQ4K) == 144 && alignof(BlockQ4K) == 2);

struct ScaleMin {
  std::uint8_t scale, min;  // 0..63
};

/// Bytes 0..3 hold the scales and 4..7 the minimums of groups 0..3 in their low six bits. Groups
/// 4..7 have their low nibbles in bytes 8..11 (scale low, minimum high) and their top two bits
/// above those of groups 0..3.
inline ScaleMin scale_and_min(const BlockQ4K& block, std::uint32_t group) {
  const std::uint8_t* s = block.scales;
  if (group < 4) {
    return {static_cast<std::uint8_t>(s[group] & 63), static_cast<std::uint8_t>(s[group + 4] & 63)};
  }
  const std::uint8_t low = s[group + 4];
  return {static_cast<std::uint8_t>((low & 15) | ((s[group - 4] >> 6) << 4)),
          static_cast<std::uint8_t>((low >> 4) | ((s[group] >> 6) << 4))};
}

inline void decode(const BlockQ4K& block, float* out) {
  const float d = half_to_float(block.d), dmin = half_to_float(block.dmin);
  for (std::uint32_t group = 0; group < 8; ++group) {
    const ScaleMin sm = scale_and_min(block, group);
    const float scale = d * static_cast<float>(sm.scale), min = dmin * static_cast<float>(sm.min);
    const std::uint8_t* q = block.qs + 32 * (group / 2);
    for (std::uint32_t i = 0; i < 32; ++i) {
      out[32 * group + i] = scale * static_cast<float>((q[i] >> (4 * (group % 2))) & 15) - min;
    }
  }
}

}  // namespace ds4::quant
