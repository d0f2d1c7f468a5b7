#include "engine/model/row_store.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>

namespace ds4 {
namespace {

using cpu::kFp4Block;
using cpu::kFp8Block;

/// The exponent of a block's scale: see Ops::round_fp8. Rounding may lower a block's largest value
/// to what a smaller scale reaches as well; then that scale holds the same values.
std::int8_t exponent_of(const float* block, std::size_t n, float least, float limit) {
  float largest = least;
  for (std::size_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(block[i]));
  if (largest == 0 || !std::isfinite(largest)) return 0;
  int exponent = 0;
  const float fraction = std::frexp(largest / limit, &exponent);  // in [0.5, 1)
  if (fraction == 0.5f) --exponent;
  return static_cast<std::int8_t>(std::clamp(exponent, -117, 117));
}

/// The code of an E4M3 value. 2^-120 moves the exponent so that the code's seven bits are a float's
/// upper bits, subnormal codes included.
std::uint8_t e4m3_code(float value) {
  const float magnitude = std::min(std::fabs(value), cpu::kFp8Largest);
  const auto bits = std::bit_cast<std::uint32_t>(magnitude * 0x1p-120f);
  return static_cast<std::uint8_t>((bits >> 20) | (std::signbit(value) ? 0x80u : 0u));
}

/// The code of an E2M1 value, likewise.
std::uint8_t e2m1_code(float value) {
  const float magnitude = std::min(std::fabs(value), cpu::kFp4Largest);
  const auto bits = std::bit_cast<std::uint32_t>(magnitude * 0x1p-126f);
  return static_cast<std::uint8_t>((bits >> 22) | (std::signbit(value) ? 0x8u : 0u));
}

void encode_fp8(const float* values, std::size_t n, std::uint8_t* codes, std::int8_t* exponents) {
  for (std::size_t begin = 0; begin < n; begin += kFp8Block) {
    const std::size_t end = std::min(n, begin + kFp8Block);
    const std::int8_t exponent =
        exponent_of(values + begin, end - begin, cpu::kFp8Least, cpu::kFp8Largest);
    exponents[begin / kFp8Block] = exponent;
    const float inverse = std::ldexp(1.0f, -exponent);
    for (std::size_t i = begin; i < end; ++i) codes[i] = e4m3_code(values[i] * inverse);
  }
}

void encode_fp4(const float* values, std::size_t n, std::uint8_t* codes, std::int8_t* exponents) {
  constexpr std::size_t kHalf = kFp4Block / 2;
  for (std::size_t begin = 0; begin < n; begin += kFp4Block) {
    const float* block = values + begin;
    const std::int8_t exponent = exponent_of(block, kFp4Block, 0, cpu::kFp4Largest);
    exponents[begin / kFp4Block] = exponent;
    const float inverse = std::ldexp(1.0f, -exponent);
    for (std::size_t i = 0; i < kHalf; ++i) {
      const std::uint8_t low = e2m1_code(block[i] * inverse);
      const std::uint8_t high = e2m1_code(block[i + kHalf] * inverse);
      codes[begin / 2 + i] = static_cast<std::uint8_t>(low | high << 4);
    }
  }
}

std::uint32_t blocks_of(std::uint32_t n, std::size_t block) {
  return (n + static_cast<std::uint32_t>(block) - 1) / static_cast<std::uint32_t>(block);
}

constexpr std::uint32_t to_floats(std::uint32_t bytes) {
  return (bytes + 3) / 4 * 4;
}

}  // namespace

RowFormat RowFormat::floats(std::uint32_t n) {
  RowFormat format;
  format.n_ = n;
  format.row_bytes_ = std::uint64_t{n} * sizeof(float);
  return format;
}

RowFormat RowFormat::fp8(std::uint32_t n, std::uint32_t coded) {
  RowFormat format;
  format.coding_ = Coding::kFp8;
  format.n_ = n;
  format.coded_ = coded;
  format.exponents_ = coded;
  format.tail_ = to_floats(coded + blocks_of(coded, kFp8Block));
  format.row_bytes_ = format.tail_ + std::uint64_t{n - coded} * sizeof(float);
  return format;
}

RowFormat RowFormat::fp4(std::uint32_t n) {
  RowFormat format;
  format.coding_ = Coding::kFp4;
  format.n_ = n;
  format.coded_ = n;
  format.exponents_ = n / 2;
  format.tail_ = to_floats(n / 2 + blocks_of(n, kFp4Block));
  format.row_bytes_ = format.tail_;
  return format;
}

void RowFormat::encode(const float* values, std::byte* row) const {
  auto* codes = reinterpret_cast<std::uint8_t*>(row);
  auto* exponents = reinterpret_cast<std::int8_t*>(row + exponents_);
  if (coding_ == Coding::kFp8) encode_fp8(values, coded_, codes, exponents);
  if (coding_ == Coding::kFp4) encode_fp4(values, coded_, codes, exponents);
  std::memcpy(row + tail_, values + coded_, (n_ - coded_) * sizeof(float));
}

void RowFormat::decode(const cpu::Ops& ops, const std::byte* row, float* values) const {
  assert(coding_ != Coding::kFp4);
  const auto* codes = reinterpret_cast<const std::uint8_t*>(row);
  const auto* exponents = reinterpret_cast<const std::int8_t*>(row + exponents_);
  if (coding_ == Coding::kFp8) ops.decode_fp8(codes, exponents, coded_, values);
  std::memcpy(values + coded_, row + tail_, (n_ - coded_) * sizeof(float));
}

cpu::Fp4Rows RowFormat::fp4_rows(const std::byte* first) const {
  assert(coding_ == Coding::kFp4);
  return {reinterpret_cast<const std::uint8_t*>(first),
          reinterpret_cast<const std::int8_t*>(first + exponents_), row_bytes_, n_};
}

}  // namespace ds4
