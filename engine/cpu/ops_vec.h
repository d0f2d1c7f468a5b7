#pragma once
// The vector of floats that the kernels are written in: as wide as the translation unit's
// instruction set allows. Arithmetic is the compiler's vector extension; only what it cannot say
// (one-rounding multiply-add) is spelled per instruction set.
//
// For the ops_*.cpp translation units only, each of which is compiled with other flags: everything
// has internal linkage, so that no function of one set can stand in for another's.
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace ds4::cpu {
namespace {

#if defined(__AVX512F__)
constexpr std::size_t kWidth = 16;
#elif defined(__AVX2__)
constexpr std::size_t kWidth = 8;
#else
constexpr std::size_t kWidth = 4;
#endif

typedef float Vec __attribute__((vector_size(kWidth * sizeof(float))));
typedef std::int32_t VecInt __attribute__((vector_size(kWidth * sizeof(std::int32_t))));
typedef float Vec4 __attribute__((vector_size(4 * sizeof(float))));

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Vec v) {
  std::memcpy(p, &v, sizeof v);
}

inline Vec splat(float x) {
  return Vec{} + x;
}

/// a * b + c, rounded once where the instruction set has it.
inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

inline Vec max(Vec a, Vec b) {
  return a > b ? a : b;
}
inline Vec min(Vec a, Vec b) {
  return a < b ? a : b;
}

/// Sums the 128-bit quarters of a vector.
inline Vec4 fold(Vec v) {
#if defined(__AVX512F__)
  const auto half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                    __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  return __builtin_shufflevector(half, half, 0, 1, 2, 3) +
         __builtin_shufflevector(half, half, 4, 5, 6, 7);
#elif defined(__AVX2__)
  return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
  return v;
#endif
}

/// The four sums of four vectors, every one added up in the same order.
inline Vec4 sums(Vec a, Vec b, Vec c, Vec d) {
  const Vec4 fa = fold(a), fb = fold(b), fc = fold(c), fd = fold(d);
  const Vec4 ab =
      __builtin_shufflevector(fa, fb, 0, 4, 1, 5) + __builtin_shufflevector(fa, fb, 2, 6, 3, 7);
  const Vec4 cd =
      __builtin_shufflevector(fc, fd, 0, 4, 1, 5) + __builtin_shufflevector(fc, fd, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

inline float sum(Vec v) {
  const Vec4 f = fold(v);
  return (f[0] + f[2]) + (f[1] + f[3]);
}

inline float largest(Vec v) {
  float result = v[0];
  for (std::size_t i = 1; i < kWidth; ++i) result = v[i] > result ? v[i] : result;
  return result;
}

/// e^x to about one unit in the last place for x <= 88; exactly 0 below -87. NaN stays NaN.
///
/// x = n ln2 + r with |r| <= ln2 / 2; e^r by its Taylor series, whose first term left out is below
/// 6e-9; 2^n by adding n to the exponent.
inline Vec exp(Vec x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693145752f;  // 16 bits, so that n * high is exact
  constexpr float kLn2Low = 1.42860677e-6f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves n in the low mantissa bits
  const Vec clamped = min(max(x, splat(-88.0f)), splat(88.0f));
  const Vec shifted = fma(clamped, splat(kLog2E), splat(kRound));
  const Vec n = shifted - kRound;
  const Vec r = fma(n, splat(-kLn2Low), fma(n, splat(-kLn2High), clamped));
  Vec p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  const VecInt power = (VecInt)shifted << 23;
  const Vec result = (Vec)((VecInt)p + power);
  return x < -87.0f ? Vec{} : (x == x ? result : x);
}

}  // namespace
}  // namespace ds4::cpu
