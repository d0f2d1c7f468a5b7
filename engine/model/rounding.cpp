#include "engine/model/rounding.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace ds4 {
namespace {

constexpr float kFp8Largest = 448.0f;
constexpr float kFp8Smallest = 1e-4f;  // a block's largest value counts as at least this
constexpr float kFp4Largest = 6.0f;

float largest_magnitude(const float* row, std::uint32_t n) {
  float largest = 0;
  for (std::uint32_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(row[i]));
  return largest;
}

/// Nearest value with `fraction_bits` after the point of 2^exponent, ties to even: adding and
/// taking away a number whose last mantissa bit is that unit rounds as the hardware does.
float round_to_unit(float magnitude, float unit) {
  const float bias = unit * 0x1p23f;
  return (magnitude + bias) - bias;
}

float nearest_e4m3(float magnitude) {
  if (magnitude >= kFp8Largest) return kFp8Largest;
  const int exponent =
      std::max(static_cast<int>(std::bit_cast<std::uint32_t>(magnitude) >> 23) - 127, -6);
  return round_to_unit(magnitude, std::ldexp(1.0f, exponent - 3));
}

float nearest_e2m1(float magnitude) {
  if (magnitude >= kFp4Largest) return kFp4Largest;
  // Steps of 0.5 below 2, of 1 below 4, of 2 above; rounding to even multiples of the step is
  // rounding to even codes.
  const float unit = magnitude < 2 ? 0.5f : magnitude < 4 ? 1.0f : 2.0f;
  return round_to_unit(magnitude, unit);
}

}  // namespace

int scale_exponent(float largest, float limit) {
  int exponent = 0;
  const float fraction = std::frexp(largest / limit, &exponent);  // in [0.5, 1)
  return fraction == 0.5f ? exponent - 1 : exponent;
}

std::uint8_t float_to_e4m3(float value) {
  const std::uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const float rounded = nearest_e4m3(std::fabs(value));
  // 2^-120 moves the exponent so that the code's seven bits are a float's upper bits, subnormal
  // codes included.
  const auto bits = std::bit_cast<std::uint32_t>(rounded * 0x1p-120f);
  return static_cast<std::uint8_t>(sign | (bits >> 20));
}

float e4m3_to_float(std::uint8_t code) {
  const float magnitude = std::bit_cast<float>(std::uint32_t{code & 0x7Fu} << 20) * 0x1p120f;
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

void round_fp8(float* row, std::uint32_t n) {
  for (std::uint32_t begin = 0; begin < n; begin += kFp8Block) {
    const std::uint32_t count = std::min(kFp8Block, n - begin);
    float* block = row + begin;
    const float largest = std::max(largest_magnitude(block, count), kFp8Smallest);
    const int exponent = scale_exponent(largest, kFp8Largest);
    const float scale = std::ldexp(1.0f, exponent);
    const float inverse = std::ldexp(1.0f, -exponent);
    for (std::uint32_t i = 0; i < count; ++i)
      block[i] = std::copysign(nearest_e4m3(std::fabs(block[i]) * inverse) * scale, block[i]);
  }
}

void hadamard(float* row, std::uint32_t n) {
  for (std::uint32_t half = 1; half < n; half *= 2) {
    for (std::uint32_t begin = 0; begin < n; begin += 2 * half) {
      for (std::uint32_t i = begin; i < begin + half; ++i) {
        const float a = row[i], b = row[i + half];
        row[i] = a + b;
        row[i + half] = a - b;
      }
    }
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (std::uint32_t i = 0; i < n; ++i) row[i] *= scale;
}

void round_fp4(float* row, std::uint32_t n) {
  for (std::uint32_t begin = 0; begin < n; begin += kFp4Block) {
    const std::uint32_t count = std::min(kFp4Block, n - begin);
    float* block = row + begin;
    const float largest = largest_magnitude(block, count);
    if (largest == 0) continue;
    // Floats below 2^-126 have no exact inverse scale; nothing real is that small.
    const int exponent = std::max(scale_exponent(largest, kFp4Largest), -126);
    const float scale = std::ldexp(1.0f, exponent);
    const float inverse = std::ldexp(1.0f, -exponent);
    for (std::uint32_t i = 0; i < count; ++i)
      block[i] = std::copysign(nearest_e2m1(std::fabs(block[i]) * inverse) * scale, block[i]);
  }
}

}  // namespace ds4
