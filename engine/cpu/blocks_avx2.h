#pragma once
// The bytes of each block format as vectors of 32 (see blocks_x86.h): weights<g>(block, tables) is
// group g of a 256-value block, or the block itself. Bytes are unsigned except where kIsSigned.
// kFold is the number of products of byte pairs that fit into 16 bits when added up.
#include "engine/cpu/blocks_x86.h"

namespace ds4::cpu {
namespace {

// Eight bits times eight bits leave no room for an offset in 16-bit sums: signed, see dot_pairs.
struct Q8_0 : LayoutQ8_0 {
  static constexpr int kBias = 0, kFold = 1;
  static constexpr bool kIsSigned = true;

  template <int>
  DS4_METHOD __m256i weights(const Byte* block) const {
    return load_256(block + 2);
  }
};

struct MXFP4 : LayoutMXFP4 {
  static constexpr int kBias = 12, kFold = 4;  // 24 * 127 * 2 * 4 < 2^15
  static constexpr bool kIsSigned = false;

  template <int>
  DS4_METHOD __m256i weights(const Byte* block) const {
    const __m256i values = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m128i q = load_128(block + 1);
    const __m256i codes = join(q, _mm_srli_epi16(q, 4));
    return _mm256_shuffle_epi8(values, _mm256_and_si256(codes, _mm256_set1_epi8(15)));
  }
};

struct Q4_K : LayoutQ4_K {
  static constexpr int kBias = 0, kFold = 8;  // 15 * 127 * 2 * 8 < 2^15
  static constexpr bool kIsSigned = false;

  template <int g>
  DS4_METHOD __m256i weights(const Byte* block) const {
    const __m256i q = load_256(block + 16 + 32 * (g / 2));
    return _mm256_and_si256(g % 2 != 0 ? _mm256_srli_epi16(q, 4) : q, _mm256_set1_epi8(15));
  }
};

struct Q2_K : LayoutQ2_K {
  static constexpr int kBias = 0, kFold = 2;  // 45 * 127 * 2 * 2 < 2^15
  static constexpr bool kIsSigned = false;

  template <int g>
  DS4_METHOD __m256i weights(const Byte* block) const {
    const __m256i q = _mm256_srli_epi16(load_256(block + 16 + 32 * (g / 4)), 2 * (g % 4));
    const __m256i scales =
        _mm256_broadcastsi128_si256(_mm_and_si128(load_128(block), _mm_set1_epi8(15)));
    // A 128-bit lane holds 16 values of one scale. Each word of it is multiplied by that scale,
    // which cannot carry from the low byte to the high: 3 * 15 < 256.
    const __m256i pick =
        _mm256_set_epi64x(kPick<2 * g + 1>, kPick<2 * g + 1>, kPick<2 * g>, kPick<2 * g>);
    return _mm256_mullo_epi16(_mm256_and_si256(q, _mm256_set1_epi8(3)),
                              _mm256_shuffle_epi8(scales, pick));
  }

 private:
  /// Shuffles byte `index` into every word, zero-extended.
  template <long long index>
  static constexpr long long kPick = static_cast<long long>(0x8000800080008000ull) |
                                     (0x0001000100010001ll * index);
};

struct IQ2_XXS : LayoutIQ2_XXS {
  static constexpr int kBias = kIq2Bias, kFold = 1;  // 107 * 127 * 2 < 2^15
  static constexpr bool kIsSigned = false;

  const Iq2Tables* tables = &iq2_tables();

  template <int g>
  DS4_METHOD __m256i weights(const Byte* block) const {
    const std::uint32_t indices = load_u32(block + 2 + 8 * g), codes = load_u32(block + 6 + 8 * g);
    const auto grid = [&](int v) {
      return static_cast<long long>(tables->biased_grid[(indices >> (8 * v)) & 255]);
    };
    const auto sign = [&](int v) {
      return static_cast<long long>(tables->sign_bytes[(codes >> (7 * v)) & 127]);
    };
    const __m256i biased = _mm256_setr_epi64x(grid(0), grid(1), grid(2), grid(3));
    const __m256i signs = _mm256_setr_epi64x(sign(0), sign(1), sign(2), sign(3));
    const __m256i negated = _mm256_sub_epi8(_mm256_set1_epi8(-2 * kIq2Bias), biased);
    return _mm256_blendv_epi8(biased, negated, signs);
  }
};

}  // namespace
}  // namespace ds4::cpu
