#pragma once
// Q8_0: 32 values share one half-precision scale; value = d * q. 8.5 bits a value.
// Layout: ggml's block_q8_0.
#include <cstdint>

#include "engine/quant/float16.h"

namespace ds4::quant {

struct BlockQ8_0 {
  static constexpr std::uint32_t kValues = 32;
  std::uint16_t d;  // binary16
  std::int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34 && alignof(BlockQ8_0) == 2);

inline void decode(const BlockQ8_0& block, float* out) {
  const float d = half_to_float(block.d);
  for (std::uint32_t i = 0; i < BlockQ8_0::kValues; ++i)
    out[i] = d * static_cast<float>(block.q[i]);
}

}  // namespace ds4::quant
