#pragma once
// IQ2_XXS: 256 values in 8 groups of 32. A group is 8 bytes: four indices into a fixed grid of 256
// vectors of 8 magnitudes, then 32 bits holding four 7-bit sign patterns and, on top, a 4-bit
// scale; value = d * (2 * scale + 1) / 8 * (+-magnitude). The eighth sign of a vector makes the
// number of minuses even. 2.0625 bits a value. Layout and grid: ggml's block_iq2_xxs.
#include <bit>
#include <cstdint>

#include "engine/quant/float16.h"

namespace ds4::quant {

struct BlockIQ2XXS {
  static constexpr std::uint32_t kValues = 256;
  std::uint16_t d;       // binary16
  std::uint16_t qs[32];  // group g: qs[4g] and qs[4g + 1] indices, qs[4g + 2..3] signs and scale
};
static_assert(sizeof(BlockIQ2XXS) == 66 && alignof(BlockIQ2XXS) == 2);

/// The grid: value i of vector v has the magnitude kIq2Magnitudes[(kIq2XxsGrid[v] >> 2i) & 3].
extern const std::uint16_t kIq2XxsGrid[256];
inline constexpr std::uint8_t kIq2Magnitudes[3] = {8, 25, 43};

/// Bit i of the result is set where value i is negative.
constexpr std::uint8_t iq2_signs(std::uint32_t pattern) {
  const std::uint32_t seven = pattern & 127;
  return static_cast<std::uint8_t>(seven | ((std::popcount(seven) & 1u) << 7));
}

inline void decode(const BlockIQ2XXS& block, float* out) {
  const float d = half_to_float(block.d);
  for (std::uint32_t group = 0; group < 8; ++group) {
    const std::uint16_t* qs = block.qs + 4 * group;
    const std::uint32_t tail = qs[2] | (std::uint32_t{qs[3]} << 16);
    const float scale = d * (static_cast<float>(2 * (tail >> 28) + 1) * 0.125f);
    for (std::uint32_t v = 0; v < 4; ++v) {
      const std::uint16_t grid = kIq2XxsGrid[(qs[v / 2] >> (8 * (v % 2))) & 255];
      const std::uint8_t signs = iq2_signs(tail >> (7 * v));
      for (std::uint32_t i = 0; i < 8; ++i) {
        const float magnitude = scale * static_cast<float>(kIq2Magnitudes[(grid >> (2 * i)) & 3]);
        out[32 * group + 8 * v + i] = (signs >> i) & 1 ? -magnitude : magnitude;
      }
    }
  }
}

}  // namespace ds4::quant
