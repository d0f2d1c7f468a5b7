#pragma once
// The rounding of cached values that DeepSeek's own inference does, and the `official` graph with
// it.
//
// Rounded values stay floats here, but each is exactly a small code times a power of two, which is
// what lets a cache hold the codes instead.
#include <cstdint>

namespace ds4 {

/// FP8 E4M3 (4 exponent bits, 3 mantissa bits, largest value 448, no infinities), blocks of 64.
inline constexpr std::uint32_t kFp8Block = 64;
/// FP4 E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives, blocks of 32.
inline constexpr std::uint32_t kFp4Block = 32;

/// The nearest E4M3 code, ties to even, beyond 448 the largest.
std::uint8_t float_to_e4m3(float value);
float e4m3_to_float(std::uint8_t code);

/// The exponent e of a block's scale 2^e: the smallest with largest / 2^e <= limit.
int scale_exponent(float largest, float limit);

/// Rounds the first `n` values of a row through FP8, in blocks with a power-of-two scale. The last
/// block may be shorter.
void round_fp8(float* row, std::uint32_t n);

/// Hadamard transform of `n` (a power of two) values in natural order, scaled by 1/sqrt(n).
void hadamard(float* row, std::uint32_t n);

/// Rounds `n` values through FP4, in blocks with a power-of-two scale.
void round_fp4(float* row, std::uint32_t n);

}  // namespace ds4
