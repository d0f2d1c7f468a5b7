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

  // For vectors of bytes that are looked up in registers.
  std::uint8_t first_codes[256];  // two-bit codes of values 0..3, value 0 lowest
  std::uint8_t last_codes[256];   // of values 4..7
  std::uint8_t eight_signs[128];  // per seven-bit pattern: bit i is set where value i is negative
  // By a byte's lower six bits: the code is in bits 2 and 3, the sign in bit 1 or, in the second
  // table, in bit 5; the other bits may be anything.
  std::uint8_t values[2][64];
};

const Iq2Tables& iq2_tables();

}  // namespace ds4::cpu
