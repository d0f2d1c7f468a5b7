#include "engine/quant/quant.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "engine/quant/float16.h"
#include "engine/quant/iq2_xxs.h"
#include "engine/quant/mxfp4.h"
#include "engine/quant/q2_k.h"
#include "engine/quant/q4_k.h"
#include "engine/quant/q8_0.h"

namespace ds4::quant {
namespace {

constexpr std::uint16_t kOne = 0x3C00, kTwo = 0x4000, kHalf = 0x3800;  // binary16

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> out;
  for (const int value : values) out.push_back(static_cast<std::byte>(value));
  return out;
}

void put_u16(std::vector<std::byte>& bytes, std::size_t at, std::uint16_t value) {
  bytes[at] = static_cast<std::byte>(value & 0xFF);
  bytes[at + 1] = static_cast<std::byte>(value >> 8);
}

std::vector<float> decoded(TensorType type, const std::vector<std::byte>& row, std::uint32_t cols) {
  EXPECT_EQ(row.size(), row_bytes(type, cols));
  std::vector<float> out(cols, -12345.0f);
  dequantize_row(type, row.data(), out.data(), cols);
  return out;
}

TEST(Float16, ConvertsEveryPatternThereAndBack) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = half_to_float(half);
    if (std::isnan(value)) {
      EXPECT_EQ((half >> 10) & 31, 31);
      EXPECT_TRUE(std::isnan(half_to_float(float_to_half(value))));
    } else {
      ASSERT_EQ(float_to_half(value), half) << std::hex << bits;
    }
  }
}

TEST(Float16, KnowsItsLandmarks) {
  EXPECT_EQ(half_to_float(0x3C00), 1.0f);
  EXPECT_EQ(half_to_float(0xC000), -2.0f);
  EXPECT_EQ(half_to_float(0x7BFF), 65504.0f);
  EXPECT_EQ(half_to_float(0x0001), std::ldexp(1.0f, -24));
  EXPECT_EQ(half_to_float(0x03FF), std::ldexp(1023.0f, -24));
  EXPECT_EQ(half_to_float(0x0400), std::ldexp(1.0f, -14));
  EXPECT_EQ(half_to_float(0xFC00), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::signbit(half_to_float(0x8000)));
}

TEST(Float16, RoundsToNearestWithTiesToEven) {
  EXPECT_EQ(float_to_half(1.0f + 0x1p-11f), 0x3C00);  // a tie, down to even
  EXPECT_EQ(float_to_half(1.0f + 0x1p-11f + 0x1p-20f), 0x3C01);
  EXPECT_EQ(float_to_half(1.0f + 3 * 0x1p-11f), 0x3C02);  // a tie, up to even
  EXPECT_EQ(float_to_half(65519.0f), 0x7BFF);
  EXPECT_EQ(float_to_half(65520.0f), 0x7C00);
  EXPECT_EQ(float_to_half(0x1p-25f), 0x0000);  // a tie between zero and the least
  EXPECT_EQ(float_to_half(0x1.8p-25f), 0x0001);
  EXPECT_EQ(float_to_half(-0x1p-24f), 0x8001);
  EXPECT_EQ(float_to_half(0x1p-14f - 0x1p-26f), 0x0400);  // a subnormal that rounds to normal
}

TEST(BFloat16, ConvertsEveryPatternThereAndBack) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = bf16_to_float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(value))));
    } else {
      ASSERT_EQ(float_to_bf16(value), half);
    }
  }
}

TEST(BFloat16, RoundsToNearestWithTiesToEven) {
  EXPECT_EQ(float_to_bf16(1.0f + 0x1p-8f), 0x3F80);
  EXPECT_EQ(float_to_bf16(1.0f + 0x1p-8f + 0x1p-16f), 0x3F81);
  EXPECT_EQ(float_to_bf16(1.0f + 3 * 0x1p-8f), 0x3F82);
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7F80);
}

TEST(E8M0, IsHalfThePowerOfTwoOfItsCode) {
  for (int code = 0; code < 256; ++code)
    EXPECT_EQ(e8m0_half_to_float(static_cast<std::uint8_t>(code)), std::ldexp(1.0f, code - 128));
}

TEST(RowBytes, FollowTheBlocks) {
  EXPECT_EQ(row_bytes(TensorType::kF32, 7), 28u);
  EXPECT_EQ(row_bytes(TensorType::kF16, 7), 14u);
  EXPECT_EQ(row_bytes(TensorType::kBF16, 7), 14u);
  EXPECT_EQ(row_bytes(TensorType::kQ8_0, 64), 68u);
  EXPECT_EQ(row_bytes(TensorType::kQ4_K, 512), 288u);
  EXPECT_EQ(row_bytes(TensorType::kQ2_K, 512), 168u);
  EXPECT_EQ(row_bytes(TensorType::kIQ2_XXS, 512), 132u);
  EXPECT_EQ(row_bytes(TensorType::kMXFP4, 64), 34u);
  EXPECT_EQ(row_bytes(TensorType::kF32, 0x40000000u), std::size_t{1} << 32);
}

TEST(BlockValues, AreZeroForTypesWithoutWeights) {
  EXPECT_EQ(block_values(TensorType::kI32), 0u);
  EXPECT_EQ(block_values(TensorType::kF32), 1u);
  EXPECT_EQ(block_values(TensorType::kQ8_0), 32u);
  EXPECT_EQ(block_values(TensorType::kQ4_K), 256u);
}

TEST(Q8_0, DecodesHandMadeBytes) {
  std::vector<std::byte> row(34);
  put_u16(row, 0, kHalf);
  row[2] = std::byte{127};
  row[3] = std::byte{0x80};   // -128
  row[33] = std::byte{0xFF};  // -1
  const auto values = decoded(TensorType::kQ8_0, row, 32);
  EXPECT_EQ(values[0], 63.5f);
  EXPECT_EQ(values[1], -64.0f);
  EXPECT_EQ(values[2], 0.0f);
  EXPECT_EQ(values[31], -0.5f);
}

TEST(MXFP4, DecodesHandMadeBytes) {
  std::vector<std::byte> row(17);
  row[0] = std::byte{128};  // scale 2
  for (int i = 0; i < 16; ++i) row[1 + i] = static_cast<std::byte>(i | ((15 - i) << 4));
  const auto values = decoded(TensorType::kMXFP4, row, 32);
  const float e2m1[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6};
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(values[i], 2 * e2m1[i]) << i;
    EXPECT_EQ(values[16 + i], 2 * e2m1[15 - i]) << i;
  }
}

TEST(Q4_K, DecodesHandMadeBytes) {
  std::vector<std::byte> row(144);
  put_u16(row, 0, kTwo);   // d
  put_u16(row, 2, kHalf);  // dmin
  // Groups 0..3: scales 1, 2, 3, 63 and minimums 0, 5, 6, 7 in the low six bits; on top of them the
  // high bits of groups 4..7: scales 17, 34, 51, 0 and minimums 48, 33, 18, 3.
  const auto scales = bytes_of({1 | 1 << 6, 2 | 2 << 6, 3 | 3 << 6, 63 | 0 << 6,  //
                                0 | 3 << 6, 5 | 2 << 6, 6 | 1 << 6, 7 | 0 << 6,   //
                                1 | 0 << 4, 2 | 1 << 4, 3 | 2 << 4, 0 | 3 << 4});
  std::copy(scales.begin(), scales.end(), row.begin() + 4);
  // Value i of group 2p is i % 16, of group 2p + 1 it is 15 - i % 16.
  for (int p = 0; p < 4; ++p)
    for (int i = 0; i < 32; ++i)
      row[16 + 32 * p + i] = static_cast<std::byte>((i % 16) | ((15 - i % 16) << 4));
  const auto values = decoded(TensorType::kQ4_K, row, 256);
  const int scale[8] = {1, 2, 3, 63, 17, 34, 51, 0}, min[8] = {0, 5, 6, 7, 48, 33, 18, 3};
  for (int g = 0; g < 8; ++g) {
    for (int i = 0; i < 32; ++i) {
      const int q = g % 2 == 0 ? i % 16 : 15 - i % 16;
      EXPECT_EQ(values[32 * g + i], 2.0f * scale[g] * q - 0.5f * min[g]) << g << ' ' << i;
    }
  }
}

TEST(Q2_K, DecodesHandMadeBytes) {
  std::vector<std::byte> row(84);
  for (int g = 0; g < 16; ++g) row[g] = static_cast<std::byte>(g | ((15 - g) << 4));
  // Bits 2j of byte 32h + i are value 128h + 32j + i: here (i + j + h) % 4.
  for (int h = 0; h < 2; ++h) {
    for (int i = 0; i < 32; ++i) {
      int byte = 0;
      for (int j = 0; j < 4; ++j) byte |= ((i + j + h) % 4) << (2 * j);
      row[16 + 32 * h + i] = static_cast<std::byte>(byte);
    }
  }
  put_u16(row, 80, kTwo);
  put_u16(row, 82, kHalf);
  const auto values = decoded(TensorType::kQ2_K, row, 256);
  for (int v = 0; v < 256; ++v) {
    const int h = v / 128, j = v / 32 % 4, i = v % 32, g = v / 16;
    EXPECT_EQ(values[v], 2.0f * g * ((i + j + h) % 4) - 0.5f * (15 - g)) << v;
  }
}

TEST(IQ2_XXS, DecodesHandMadeBytes) {
  std::vector<std::byte> row(66);
  put_u16(row, 0, kOne);
  // Group 0: grid vectors 0, 1, 255, 0; sign patterns 0, 1, 127, 0; scale code 3.
  row[2] = std::byte{0}, row[3] = std::byte{1}, row[4] = std::byte{255}, row[5] = std::byte{0};
  const std::uint32_t tail = 0u | (1u << 7) | (127u << 14) | (3u << 28);
  std::memcpy(&row[6], &tail, sizeof tail);
  const auto values = decoded(TensorType::kIQ2_XXS, row, 256);
  const float scale = 7.0f / 8.0f;
  // Vector 0 is all eights; vector 1 (0x0002) has 43 first; vector 255 (0xa904) is, two bits each,
  // 0 1 0 0 1 2 2 2.
  const float second[8] = {-43, 8, 8, 8, 8, 8, 8, -8};  // one minus, and the eighth to make it even
  const float third[8] = {-8, -25, -8, -8, -25, -43, -43, -43};  // seven, and again the eighth
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(values[i], scale * 8);
    EXPECT_EQ(values[8 + i], scale * second[i]) << i;
    EXPECT_EQ(values[16 + i], scale * third[i]) << i;
    EXPECT_EQ(values[24 + i], scale * 8);
    EXPECT_EQ(values[32 + i], 8 * 0.125f);  // group 1: all bytes zero
  }
}

TEST(IQ2_XXS, GridHasNoFourthMagnitudeAndNoRepeats) {
  for (int v = 0; v < 256; ++v) {
    for (int i = 0; i < 8; ++i) EXPECT_LT((kIq2XxsGrid[v] >> (2 * i)) & 3, 3) << v;
    if (v > 0) {
      EXPECT_LT(kIq2XxsGrid[v - 1], kIq2XxsGrid[v]);
    }
  }
}

TEST(IQ2_XXS, SignsAlwaysNegateAnEvenNumber) {
  for (std::uint32_t pattern = 0; pattern < 128; ++pattern) {
    EXPECT_EQ(iq2_signs(pattern) & 127, static_cast<int>(pattern));
    EXPECT_EQ(std::popcount(iq2_signs(pattern)) % 2, 0);
  }
}

TEST(DequantizeRow, WalksBlocksAtAnyAlignment) {
  std::vector<float> source(96);
  std::mt19937 rng(1);
  for (float& value : source) value = static_cast<float>(rng() % 1000) - 500.0f;
  for (const TensorType type : {TensorType::kF32, TensorType::kF16, TensorType::kBF16,
                                TensorType::kQ8_0, TensorType::kMXFP4}) {
    std::vector<std::byte> row(row_bytes(type, 96) + 1);
    ASSERT_TRUE(quantize_row(type, source.data(), row.data(), 96));
    std::vector<float> aligned(96), shifted(96);
    dequantize_row(type, row.data(), aligned.data(), 96);
    std::memmove(row.data() + 1, row.data(), row.size() - 1);
    dequantize_row(type, row.data() + 1, shifted.data(), 96);
    EXPECT_EQ(aligned, shifted);
  }
}

TEST(QuantizeRow, KeepsPlainFloats) {
  const std::vector<float> source = {1.0f, -2.5f, 0.0f, 0x1p-10f};
  for (const TensorType type : {TensorType::kF32, TensorType::kF16, TensorType::kBF16}) {
    std::vector<std::byte> row(row_bytes(type, 4));
    ASSERT_TRUE(quantize_row(type, source.data(), row.data(), 4));
    EXPECT_EQ(decoded(type, row, 4), source);
  }
}

TEST(QuantizeRow, IsExactOnWhatTheFormatCanHold) {
  std::mt19937 rng(2);
  for (int round = 0; round < 200; ++round) {
    BlockQ8_0 q8{};
    q8.d = float_to_half(0.001f * static_cast<float>(1 + rng() % 1000));
    for (auto& q : q8.q) q = static_cast<std::int8_t>(static_cast<int>(rng() % 255) - 127);
    q8.q[rng() % 32] = 127;
    float values[32], again[32];
    decode(q8, values);
    std::byte row[34];
    ASSERT_TRUE(quantize_row(TensorType::kQ8_0, values, row, 32));
    dequantize_row(TensorType::kQ8_0, row, again, 32);
    ASSERT_TRUE(std::equal(values, values + 32, again)) << "Q8_0 round " << round;

    BlockMXFP4 fp4{};
    fp4.e = static_cast<std::uint8_t>(rng() % 250);
    for (auto& q : fp4.qs) q = static_cast<std::uint8_t>(rng());
    fp4.qs[rng() % 16] = 0x77;  // a six, so that the scale is the one that the encoder chooses
    decode(fp4, values);
    ASSERT_TRUE(quantize_row(TensorType::kMXFP4, values, row, 32));
    dequantize_row(TensorType::kMXFP4, row, again, 32);
    ASSERT_TRUE(std::equal(values, values + 32, again)) << "MXFP4 round " << round;
  }
}

TEST(QuantizeRow, ErrsByHalfAStepAtMost) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 100; ++round) {
    float values[32], again[32];
    for (float& value : values) value = normal(rng);
    const float largest = std::fabs(*std::max_element(
        values, values + 32, [](float a, float b) { return std::fabs(a) < std::fabs(b); }));
    std::byte row[34];
    ASSERT_TRUE(quantize_row(TensorType::kQ8_0, values, row, 32));
    dequantize_row(TensorType::kQ8_0, row, again, 32);
    // Half a step, plus the rounding of the scale to half precision.
    for (int i = 0; i < 32; ++i)
      ASSERT_NEAR(values[i], again[i], largest / 127 * 0.5f + std::fabs(values[i]) * 0x1p-10f);
    ASSERT_TRUE(quantize_row(TensorType::kMXFP4, values, row, 32));
    dequantize_row(TensorType::kMXFP4, row, again, 32);
    // The widest step is from 4 to 6, and values up to 8 are cut to 6: at most a quarter.
    for (int i = 0; i < 32; ++i) ASSERT_NEAR(values[i], again[i], largest / 4);
  }
}

TEST(QuantizeRow, TakesZerosAndTheSmallestNumbers) {
  float values[32] = {}, again[32];
  std::byte row[34];
  for (const TensorType type : {TensorType::kQ8_0, TensorType::kMXFP4}) {
    ASSERT_TRUE(quantize_row(type, values, row, 32));
    dequantize_row(type, row, again, 32);
    EXPECT_TRUE(std::equal(values, values + 32, again));
  }
  values[3] = 1e-42f;
  for (const TensorType type : {TensorType::kQ8_0, TensorType::kMXFP4}) {
    ASSERT_TRUE(quantize_row(type, values, row, 32));
    dequantize_row(type, row, again, 32);
    for (const float value : again) EXPECT_LE(std::fabs(value), 0x1p-125f);
  }
}

TEST(QuantizeRow, RefusesFormatsThatNeedASearch) {
  const std::vector<float> values(256, 1.0f);
  std::vector<std::byte> row(144, std::byte{0x5A});
  for (const TensorType type :
       {TensorType::kQ4_K, TensorType::kQ2_K, TensorType::kIQ2_XXS, TensorType::kI32}) {
    EXPECT_FALSE(quantize_row(type, values.data(), row.data(), 256));
  }
  EXPECT_EQ(row, std::vector<std::byte>(144, std::byte{0x5A}));
}

}  // namespace
}  // namespace ds4::quant
