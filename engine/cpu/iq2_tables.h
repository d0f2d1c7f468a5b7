#pragma once
// IQ2_XXS as the kernels read it: whole vectors of bytes instead of two-bit codes. Plain data, see
// kernels.h for why.
#include <cstdint>

namespace ds4::cpu {

/// Kernels work on magnitude + kIq2Bias, so that a negated value, 2 * kIq2Bias - it, is a positive
/// byte too.
inline constexpr int kIq2Bias = 64;

struct Iq2Tables {
  std::uint64_t biased_grid[256];  // eight bytes, value 0 lowest
  std::uint64_t sign_bytes[128];  // per seven-bit pattern: byte i is 0xFF where value i is negative
};

const Iq2Tables& iq2_tables();

}  // namespace ds4::cpu
