#pragma once
// The bytes of each block format as vectors of 64 (see blocks_x86.h): weights<j>(a, b) of the step
// whose blocks are at a and b holds group first_group(j) in its lower half and second_group(j) in
// its upper. All bytes are unsigned.
#include "engine/cpu/blocks_x86.h"

namespace ds4::cpu {
namespace {

DS4_INLINE __m512i join(__m256i low, __m256i high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

struct Q8_0 : LayoutQ8_0 {
  static constexpr int kVectors = 1, kBias = 128;
  static constexpr int first_group(int) { return 0; }
  static constexpr int second_group(int) { return 1; }

  template <int>
  DS4_METHOD __m512i weights(const Byte* a, const Byte* b) const {
    return _mm512_xor_si512(join(load_256(a + 2), load_256(b + 2)), _mm512_set1_epi8(-128));
  }
};

struct MXFP4 : LayoutMXFP4 {
  static constexpr int kVectors = 1, kBias = 12;
  static constexpr int first_group(int) { return 0; }
  static constexpr int second_group(int) { return 1; }

  template <int>
  DS4_METHOD __m512i weights(const Byte* a, const Byte* b) const {
    const __m512i values = _mm512_broadcast_i32x4(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m128i qa = load_128(a + 1), qb = load_128(b + 1);
    const __m512i codes = join(join(qa, _mm_srli_epi16(qa, 4)), join(qb, _mm_srli_epi16(qb, 4)));
    return _mm512_shuffle_epi8(values, _mm512_and_si512(codes, _mm512_set1_epi8(15)));
  }
};

struct Q4_K : LayoutQ4_K {
  static constexpr int kVectors = 4, kBias = 0;
  static constexpr int first_group(int j) { return 4 * (j / 2) + j % 2; }
  static constexpr int second_group(int j) { return first_group(j) + 2; }

  template <int j>
  DS4_METHOD __m512i weights(const Byte* block, const Byte*) const {
    const __m512i q = _mm512_loadu_si512(block + 16 + 64 * (j / 2));
    return _mm512_and_si512(j % 2 != 0 ? _mm512_srli_epi16(q, 4) : q, _mm512_set1_epi8(15));
  }
};

struct Q2_K : LayoutQ2_K {
  static constexpr int kVectors = 4, kBias = 0;
  static constexpr int first_group(int j) { return j; }
  static constexpr int second_group(int j) { return j + 4; }

  template <int j>
  DS4_METHOD __m512i weights(const Byte* block, const Byte*) const {
    const __m512i q = _mm512_srli_epi16(_mm512_loadu_si512(block + 16), 2 * j);
    const __m128i scales = _mm_and_si128(load_128(block), _mm_set1_epi8(15));
    // A 128-bit lane holds 16 values of one scale. Each word of it is multiplied by that scale,
    // which cannot carry from the low byte to the high: 3 * 15 < 256.
    const __m512i pick =
        _mm512_set_epi64(kPick<2 * j + 9>, kPick<2 * j + 9>, kPick<2 * j + 8>, kPick<2 * j + 8>,
                         kPick<2 * j + 1>, kPick<2 * j + 1>, kPick<2 * j>, kPick<2 * j>);
    return _mm512_mullo_epi16(_mm512_and_si512(q, _mm512_set1_epi8(3)),
                              _mm512_shuffle_epi8(_mm512_broadcast_i32x4(scales), pick));
  }

 private:
  /// Shuffles byte `index` into every word, zero-extended.
  template <long long index>
  static constexpr long long kPick = static_cast<long long>(0x8000800080008000ull) |
                                     (0x0001000100010001ll * index);
};

struct IQ2_XXS : LayoutIQ2_XXS {
  static constexpr int kVectors = 4, kBias = kIq2Bias;
  static constexpr int first_group(int j) { return 2 * j; }
  static constexpr int second_group(int j) { return 2 * j + 1; }

  const std::uint64_t* grid = iq2_tables().biased_grid;

  template <int j>
  DS4_METHOD __m512i weights(const Byte* block, const Byte*) const {
    const std::uint64_t a = load_u64(block + 2 + 16 * j), b = load_u64(block + 10 + 16 * j);
    // Seven signs to a byte; the eighth is their parity, folded down to bit 0 of each byte.
    const std::uint64_t codes = ((a >> 32) & 0x0FFFFFFF) | ((b >> 32) & 0x0FFFFFFF) << 28;
    const std::uint64_t seven = _pdep_u64(codes, 0x7F7F7F7F7F7F7F7Full);
    std::uint64_t parity = seven ^ (seven >> 4);
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    const std::uint64_t signs = seven | (parity & 0x0101010101010101ull) << 7;
    const __m512i biased = join(join(pair(a), pair(a >> 16)), join(pair(b), pair(b >> 16)));
    return _mm512_mask_sub_epi8(biased, _cvtu64_mask64(signs), _mm512_set1_epi8(-2 * kIq2Bias),
                                biased);
  }

 private:
  DS4_METHOD __m128i pair(std::uint64_t indices) const {
    return _mm_set_epi64x(static_cast<long long>(grid[(indices >> 8) & 255]),
                          static_cast<long long>(grid[indices & 255]));
  }
};

}  // namespace
}  // namespace ds4::cpu
