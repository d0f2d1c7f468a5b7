#pragma once
// Rounding to the few bits of cached values, and reading them back, in terms of Vec. For the
// ops_*.cpp translation units only.
#include "engine/cpu/ops.h"
#include "engine/cpu/ops_vec.h"

namespace ds4::cpu {
namespace {

typedef std::uint8_t VecByte __attribute__((vector_size(kWidth)));

inline Vec magnitude(Vec x) {
  return (Vec)((VecInt)x & 0x7FFFFFFF);
}
inline Vec with_sign_of(Vec x, Vec sign) {
  return (Vec)((VecInt)x | ((VecInt)sign & INT32_MIN));
}
inline float power_of_two(int exponent) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(exponent + 127) << 23);
}

inline Vec largest_of(const float* x, std::size_t n) {
  Vec most{};
  for (std::size_t i = 0; i < n; i += kWidth) most = max(most, magnitude(load(x + i)));
  return most;
}

/// Smallest e with largest / 2^e <= limit: the quotient's exponent, or one more if there is a
/// fraction. Bounded so that 2^e, 2^-e and a code's smallest step are normal floats.
inline int scale_exponent(float largest, float limit) {
  const auto bits = __builtin_bit_cast(std::uint32_t, largest / limit);
  const int exponent = static_cast<int>(bits >> 23) - 127 + ((bits & 0x7FFFFF) != 0 ? 1 : 0);
  return exponent < -117 ? -117 : exponent > 117 ? 117 : exponent;
}

/// Rounds magnitudes to multiples of `unit` (powers of two), ties to even: adding 2^23 units leaves
/// no room for fractions of one.
inline Vec round_to(Vec x, Vec unit) {
  const Vec bias = unit * 0x1p23f;
  return (x + bias) - bias;
}

void round_fp8(float* row, std::size_t n) {
  for (std::size_t begin = 0; begin < n; begin += kFp8Block) {
    float* block = row + begin;
    const std::size_t count = n - begin < kFp8Block ? n - begin : kFp8Block;
    const float most = largest(largest_of(block, count));
    const int exponent = scale_exponent(most > kFp8Least ? most : kFp8Least, kFp8Largest);
    const Vec scale = splat(power_of_two(exponent)), inverse = splat(power_of_two(-exponent));
    for (std::size_t i = 0; i < count; i += kWidth) {
      const Vec x = load(block + i);
      const Vec small = min(magnitude(x) * inverse, splat(kFp8Largest));
      // Three bits follow the leading one; below 2^-6 the codes are subnormal, in steps of 2^-9.
      const Vec leading = max((Vec)((VecInt)small & 0x7F800000), splat(0x1p-6f));
      store(block + i, with_sign_of(round_to(small, leading * 0x1p-3f) * scale, x));
    }
  }
}

void round_fp4(float* row, std::size_t n) {
  for (std::size_t begin = 0; begin < n; begin += kFp4Block) {
    float* block = row + begin;
    const std::size_t count = n - begin < kFp4Block ? n - begin : kFp4Block;
    const float most = largest(largest_of(block, count));
    if (most == 0) continue;
    const int exponent = scale_exponent(most, kFp4Largest);
    const Vec scale = splat(power_of_two(exponent)), inverse = splat(power_of_two(-exponent));
    for (std::size_t i = 0; i < count; i += kWidth) {
      const Vec x = load(block + i);
      const Vec small = min(magnitude(x) * inverse, splat(kFp4Largest));
      // Steps of 0.5 below 2, of 1 below 4, of 2 above: an even multiple is an even code.
      const Vec unit = small < 2.0f ? splat(0.5f) : (small < 4.0f ? splat(1.0f) : splat(2.0f));
      store(block + i, with_sign_of(round_to(small, unit) * scale, x));
    }
  }
}

void hadamard(float* row, std::size_t n) {
  for (std::size_t half = 1; half < kWidth; half *= 2) {
    for (std::size_t begin = 0; begin < n; begin += 2 * half) {
      for (std::size_t i = begin; i < begin + half; ++i) {
        const float a = row[i], b = row[i + half];
        row[i] = a + b;
        row[i + half] = a - b;
      }
    }
  }
  for (std::size_t half = kWidth; half < n; half *= 2) {
    for (std::size_t begin = 0; begin < n; begin += 2 * half) {
      for (std::size_t i = begin; i < begin + half; i += kWidth) {
        const Vec a = load(row + i), b = load(row + i + half);
        store(row + i, a + b);
        store(row + i + half, a - b);
      }
    }
  }
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(n));
  for (std::size_t i = 0; i < n; i += kWidth) store(row + i, load(row + i) * scale);
}

inline VecInt load_bytes(const std::uint8_t* p) {
  VecByte bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(bytes, VecInt);
}

/// An E4M3 code without sign in units of its smallest step.
inline VecInt steps(VecInt code) {
  constexpr int kMantissaBits = 3, kOne = 1 << kMantissaBits;
  const VecInt exponent = code >> kMantissaBits;
  const VecInt fraction = code & (kOne - 1);
  return exponent == 0 ? fraction : ((fraction | kOne) << (exponent - 1));
}

void decode_fp8(const std::uint8_t* codes, const std::int8_t* exponents, std::size_t n, float* y) {
  for (std::size_t i = 0; i < n; i += kWidth) {
    const VecInt code = load_bytes(codes + i);
    const Vec scale = splat(power_of_two(exponents[i / kFp8Block] - 9));
    const Vec value = __builtin_convertvector(steps(code & 0x7F), Vec) * scale;
    store(y + i, (Vec)((VecInt)value | (code & 0x80) << 24));
  }
}

}  // namespace
}  // namespace ds4::cpu
