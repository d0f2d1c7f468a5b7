#pragma once
// The bytes of each block format in vectors of sixteen rows, one dword lane per row (see
// blocks_x86.h for what the bytes stand for).
//
// Packed weights are transposed before they are unpacked: the 64 bytes that hold 256 two-bit values
// take as many shuffles as 64 unpacked ones. From then on a vector holds the same columns of all
// rows, so nothing is ever added up across lanes, and one activation is the same in all of them.
//
// A format has a Step, what load() keeps of sixteen rows of one step beside the scales (group g of
// row r to scale[16 g + r], its minimum i to min[16 (kMins g + i) + r]), and group<j>(step, i, w),
// which makes w[k] bytes 4k..4k+3 of group i * kInner + j.
#include "engine/cpu/blocks_x86.h"

namespace ds4::cpu {
namespace {

DS4_INLINE __m512i join(__m256i low, __m256i high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
DS4_INLINE __m512 join(__m256 low, __m256 high) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

/// Sixteen rows of a matrix.
struct Rows16 {
  Rows8 top, bottom;
  DS4_METHOD const Byte* row(int r) const { return r < 8 ? top.row[r] : bottom.row[r - 8]; }
};

/// Transposes 16 x 16 dwords: out[i], dword r = in[r], dword i.
DS4_INLINE void transpose(__m512i (&v)[16]) {
  __m512i t[16];
  DS4_UNROLL
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
  // v[4i + c]: rows 4i..4i+3; in 128-bit lane l, dword 4l + c.
  DS4_UNROLL
  for (int i = 0; i < 4; ++i) {
    v[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    v[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  DS4_UNROLL
  for (int c = 0; c < 4; ++c) {
    const __m512i low01 = _mm512_shuffle_i32x4(v[c], v[4 + c], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(v[c], v[4 + c], 0xEE);
    const __m512i low23 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0x44);
    const __m512i high23 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0xEE);
    t[c] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(low01, low23, 0xDD);
    t[8 + c] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    t[12 + c] = _mm512_shuffle_i32x4(high01, high23, 0xDD);
  }
  DS4_UNROLL
  for (int i = 0; i < 16; ++i) v[i] = t[i];
}

/// The 64 bytes at `offset` of sixteen rows: out[i] = dword i of each.
DS4_INLINE void load_64(const Rows16& rows, std::size_t offset, __m512i* out) {
  __m512i v[16];
  DS4_UNROLL
  for (int r = 0; r < 16; ++r) v[r] = _mm512_loadu_si512(rows.row(r) + offset);
  transpose(v);
  DS4_UNROLL
  for (int i = 0; i < 16; ++i) out[i] = v[i];
}

/// The 16 bytes at `offset`, likewise.
DS4_INLINE void load_16(const Rows16& rows, std::size_t offset, __m512i* out) {
  __m512i v[4];
  DS4_UNROLL
  for (int r = 0; r < 4; ++r) {
    const auto at = [&](int row) { return load_128(rows.row(row) + offset); };
    v[r] = join(join(at(r), at(r + 4)), join(at(r + 8), at(r + 12)));
  }
  const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
  const __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
  out[0] = _mm512_unpacklo_epi64(a, c);
  out[1] = _mm512_unpackhi_epi64(a, c);
  out[2] = _mm512_unpacklo_epi64(b, d);
  out[3] = _mm512_unpackhi_epi64(b, d);
}

/// One half-precision number of each row.
DS4_INLINE __m512 load_halves(const Rows16& rows, std::size_t offset) {
  return join(load_halves(rows.top, offset), load_halves(rows.bottom, offset));
}

/// The half-precision numbers in the lower halves of the dwords.
DS4_INLINE __m512 low_halves(__m512i dwords) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(dwords));
}

/// Bits [first, first + 4 or 6) of every dword as floats.
DS4_INLINE __m512 bits_to_float(__m512i dwords, int first, int mask) {
  const auto shift = static_cast<unsigned>(first);
  return _mm512_cvtepi32_ps(
      _mm512_and_si512(_mm512_srli_epi32(dwords, shift), _mm512_set1_epi32(mask)));
}

/// Scales of the formats of 32 values, which are laid out like that of eight rows.
template <class Layout>
DS4_INLINE void load_scales(const Rows16& rows, std::size_t a, std::size_t b, float* scale) {
  Layout::scales(rows.top, a, b, scale, nullptr, 16);
  Layout::scales(rows.bottom, a, b, scale + 8, nullptr, 16);
}

struct Q8_0 : LayoutQ8_0 {
  static constexpr int kInner = 1, kBias = 128;
  struct Step {
    __m512i dwords[16];
  };

  /// Two blocks of one row, side by side.
  DS4_INLINE __m512i row(const Byte* a, const Byte* b) {
    return _mm512_xor_si512(join(load_256(a + 2), load_256(b + 2)), _mm512_set1_epi8(-128));
  }
  DS4_INLINE void load(const Rows16& rows, std::size_t a, std::size_t b, Step& step, float* scale,
                       float*) {
    load_scales<LayoutQ8_0>(rows, a, b, scale);
    DS4_UNROLL
    for (int r = 0; r < 16; ++r) step.dwords[r] = row(rows.row(r) + a, rows.row(r) + b);
    transpose(step.dwords);
  }
  template <int>
  DS4_METHOD void group(const Step& step, int i, __m512i (&w)[8]) const {
    DS4_UNROLL
    for (int k = 0; k < 8; ++k) w[k] = step.dwords[8 * i + k];
  }
};

struct MXFP4 : LayoutMXFP4 {
  static constexpr int kInner = 1, kBias = 12;
  struct Step {
    __m512i dwords[8];
  };

  DS4_INLINE void load(const Rows16& rows, std::size_t a, std::size_t b, Step& step, float* scale,
                       float*) {
    load_scales<LayoutMXFP4>(rows, a, b, scale);
    load_16(rows, a + 1, step.dwords);
    load_16(rows, b + 1, step.dwords + 4);
  }
  template <int>
  DS4_METHOD void group(const Step& step, int i, __m512i (&w)[8]) const {
    const __m512i values = _mm512_broadcast_i32x4(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m512i low = _mm512_set1_epi8(15);
    DS4_UNROLL
    for (int k = 0; k < 4; ++k) {
      const __m512i q = step.dwords[4 * i + k];
      w[k] = _mm512_shuffle_epi8(values, _mm512_and_si512(q, low));
      w[k + 4] = _mm512_shuffle_epi8(values, _mm512_and_si512(_mm512_srli_epi16(q, 4), low));
    }
  }
};

struct Q4_K : LayoutQ4_K {
  static constexpr int kInner = 2, kBias = 0;
  struct Step {
    __m512i dwords[32];
  };

  DS4_INLINE void load(const Rows16& rows, std::size_t a, std::size_t, Step& step, float* scale,
                       float* min) {
    load_64(rows, a + 16, step.dwords);
    load_64(rows, a + 80, step.dwords + 16);
    __m512i head[4];  // d and dmin; scales 0..3; 4..7; 8..11
    load_16(rows, a, head);
    const __m512 d = low_halves(head[0]), dmin = low_halves(_mm512_srli_epi32(head[0], 16));
    const __m512i low = _mm512_set1_epi32(0x0F0F0F0F), top = _mm512_set1_epi32(0x30303030);
    const auto mix = [&](__m512i lows, __m512i tops) {
      return _mm512_or_si512(_mm512_and_si512(lows, low),
                             _mm512_and_si512(_mm512_srli_epi32(tops, 2), top));
    };
    const __m512i s[2] = {head[1], mix(head[3], head[1])};
    const __m512i m[2] = {head[2], mix(_mm512_srli_epi32(head[3], 4), head[2])};
    DS4_UNROLL
    for (int g = 0; g < 8; ++g) {
      _mm512_store_ps(scale + 16 * g, _mm512_mul_ps(d, bits_to_float(s[g / 4], 8 * (g % 4), 63)));
      _mm512_store_ps(min + 16 * g, _mm512_mul_ps(dmin, bits_to_float(m[g / 4], 8 * (g % 4), 63)));
    }
  }
  template <int j>
  DS4_METHOD void group(const Step& step, int i, __m512i (&w)[8]) const {
    DS4_UNROLL
    for (int k = 0; k < 8; ++k) {
      const __m512i q = step.dwords[8 * i + k];
      w[k] = _mm512_and_si512(j == 0 ? q : _mm512_srli_epi16(q, 4), _mm512_set1_epi8(15));
    }
  }
};

// The four-bit scales are multiplied into the two-bit values, which leaves one scale per block.
struct Q2_K : LayoutQ2_K {
  static constexpr int kInner = 4, kBias = 0;
  struct Step {
    __m512i dwords[16];
    __m512i scales[4];  // byte i: of the 16 values from 16 i on
  };

  DS4_INLINE void load(const Rows16& rows, std::size_t a, std::size_t, Step& step, float* scale,
                       float* min) {
    const auto both = [&](int r) { return static_cast<int>(load_u32(rows.row(r) + a + 80)); };
    const __m512i halves = _mm512_setr_epi32(both(0), both(1), both(2), both(3), both(4), both(5),
                                             both(6), both(7), both(8), both(9), both(10), both(11),
                                             both(12), both(13), both(14), both(15));
    const __m512 d = low_halves(halves), dmin = low_halves(_mm512_srli_epi32(halves, 16));
    load_16(rows, a, step.scales);
    DS4_UNROLL
    for (int i = 0; i < 16; ++i) {
      const __m512 m = bits_to_float(step.scales[i / 4], 8 * (i % 4) + 4, 15);
      _mm512_store_ps(min + 16 * i, _mm512_mul_ps(dmin, m));
    }
    DS4_UNROLL
    for (int i = 0; i < 4; ++i)
      step.scales[i] = _mm512_and_si512(step.scales[i], _mm512_set1_epi8(15));
    DS4_UNROLL
    for (int g = 0; g < 8; ++g) _mm512_store_ps(scale + 16 * g, d);
    load_64(rows, a + 16, step.dwords);
  }
  template <int j>
  DS4_METHOD void group(const Step& step, int i, __m512i (&w)[8]) const {
    // Each word is multiplied by its 16 values' scale, which cannot carry from the low byte to the
    // high: 3 * 15 < 256.
    const __m512i scales = step.scales[2 * i + j / 2];
    const __m512i factor[2] = {_mm512_shuffle_epi8(scales, pick(2 * (j % 2))),
                               _mm512_shuffle_epi8(scales, pick(2 * (j % 2) + 1))};
    DS4_UNROLL
    for (int k = 0; k < 8; ++k) {
      const __m512i q = _mm512_srli_epi16(step.dwords[8 * i + k], 2 * j);
      w[k] = _mm512_mullo_epi16(_mm512_and_si512(q, _mm512_set1_epi8(3)), factor[k / 4]);
    }
  }

 private:
  /// Shuffles byte `b` of every dword into its words, zero-extended.
  DS4_INLINE __m512i pick(int b) {
    const int first = static_cast<int>(0x80008000u) | 0x00010001 * b;
    const int step = 0x00040004;
    return _mm512_broadcast_i32x4(
        _mm_setr_epi32(first, first + step, first + 2 * step, first + 3 * step));
  }
};

// Indices of the grid's vectors are looked up in registers: 256 entries of eight two-bit codes are
// two times four vectors, and one instruction looks 64 bytes up in two of them. A code and its sign
// are then moved into one byte and looked up again.
struct IQ2_XXS : LayoutIQ2_XXS {
  static constexpr int kInner = 1, kBias = kIq2Bias;
  struct Step {
    __m512i dwords[16];  // 2g: the four indices of group g, 2g + 1: its signs and scale
  };

  DS4_METHOD IQ2_XXS() {
    const Iq2Tables& tables = iq2_tables();
    DS4_UNROLL
    for (int i = 0; i < 4; ++i) {
      first_half[i] = _mm512_loadu_si512(tables.first_codes + 64 * i);
      last_half[i] = _mm512_loadu_si512(tables.last_codes + 64 * i);
    }
    DS4_UNROLL
    for (int i = 0; i < 2; ++i) {
      eight_signs[i] = _mm512_loadu_si512(tables.eight_signs + 64 * i);
      values[i] = _mm512_loadu_si512(tables.values[i]);
    }
  }

  DS4_INLINE void load(const Rows16& rows, std::size_t a, std::size_t, Step& step, float* scale,
                       float*) {
    load_64(rows, a + 2, step.dwords);
    const __m512 d = load_halves(rows, a);
    DS4_UNROLL
    for (int g = 0; g < 8; ++g) {
      const __m512 code = _mm512_cvtepi32_ps(_mm512_srli_epi32(step.dwords[2 * g + 1], 28));
      const __m512 factor =
          _mm512_fmadd_ps(code, _mm512_set1_ps(0.25f), _mm512_set1_ps(0.125f));  // exact
      _mm512_store_ps(scale + 16 * g, _mm512_mul_ps(d, factor));
    }
  }
  template <int>
  DS4_METHOD void group(const Step& step, int i, __m512i (&w)[8]) const {
    const __m512i index = step.dwords[2 * i];
    const __mmask64 upper = _mm512_movepi8_mask(index);
    const __m512i halves[2] = {look_up(first_half, index, upper), look_up(last_half, index, upper)};
    const __m512i seven = _mm512_multishift_epi64_epi8(fields<7, 0, 0>(), step.dwords[2 * i + 1]);
    const __m512i signs = _mm512_permutex2var_epi8(eight_signs[0], seven, eight_signs[1]);
    add_vector<0>(halves, signs, w);
    add_vector<1>(halves, signs, w);
    add_vector<2>(halves, signs, w);
    add_vector<3>(halves, signs, w);
  }

 private:
  __m512i first_half[4], last_half[4], eight_signs[2], values[2];

  DS4_INLINE __m512i look_up(const __m512i (&table)[4], __m512i index, __mmask64 upper) {
    return _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(table[0], index, table[1]),
                                  _mm512_permutex2var_epi8(table[2], index, table[3]));
  }
  /// For every dword: byte v gets the eight bits from bit first + v * width - down on.
  template <int width, int first, int down>
  DS4_INLINE __m512i fields() {
    const auto at = [](int v) { return static_cast<char>((first + v * width - down) & 63); };
    const auto at32 = [](int v) { return static_cast<char>((32 + first + v * width - down) & 63); };
    return _mm512_broadcast_i32x4(_mm_setr_epi8(at(0), at(1), at(2), at(3), at32(0), at32(1),
                                                at32(2), at32(3), at(0), at(1), at(2), at(3),
                                                at32(0), at32(1), at32(2), at32(3)));
  }
  /// Vector v of a group: values 8v..8v+7. The byte that is looked up has the code in bits 2 and 3
  /// and the signs of a value and of the fourth behind it in bits 1 and 5.
  template <int v>
  DS4_METHOD void add_vector(const __m512i (&halves)[2], __m512i signs, __m512i (&w)[8]) const {
    const __m512i sign = _mm512_multishift_epi64_epi8(fields<1, 8 * v, 1>(), signs);
    DS4_UNROLL
    for (int half = 0; half < 2; ++half) {
      const __m512i code = _mm512_multishift_epi64_epi8(fields<2, 8 * v, 2>(), halves[half]);
      constexpr int kSelect = 0xCA;  // a ? b : c, bit by bit
      const __m512i index = _mm512_ternarylogic_epi32(_mm512_set1_epi8(0x0C), code, sign, kSelect);
      w[2 * v + half] = _mm512_permutexvar_epi8(index, values[half]);
    }
  }
};

}  // namespace
}  // namespace ds4::cpu
