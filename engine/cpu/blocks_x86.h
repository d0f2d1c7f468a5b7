#pragma once
// How a block format looks to the x86 kernels: every format becomes bytes w with
//
//     weight = scale[group] * (w - kBias) - min[...]
//
// Here are the layout and the scales, eight rows at a time with one lane per row; the bytes depend
// on the width of the vectors (blocks_avx2.h, blocks_avx512.h). A step is the stretch of a row that
// is unpacked together: one block of 256 values, or two blocks of 32.
//
// All in an anonymous namespace, so that nothing compiled for one instruction set can be linked
// into a file of another. Needs AVX2 and F16C, no more.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "engine/cpu/iq2_tables.h"
#include "engine/cpu/kernels.h"

#define DS4_INLINE static inline __attribute__((always_inline))
#define DS4_METHOD inline __attribute__((always_inline))
// Arrays of vectors live in registers once their loops are unrolled. Checked builds keep the loops:
// with a check per access, unrolled kernels take minutes to compile.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DS4_UNROLL
#else
#define DS4_UNROLL _Pragma("GCC unroll 16")
#endif

namespace ds4::cpu {
namespace {

using Byte = std::uint8_t;

DS4_INLINE std::uint16_t load_u16(const Byte* p) {
  std::uint16_t v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
DS4_INLINE std::uint32_t load_u32(const Byte* p) {
  std::uint32_t v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
DS4_INLINE std::uint64_t load_u64(const Byte* p) {
  std::uint64_t v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
DS4_INLINE __m128i load_128(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
DS4_INLINE __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
DS4_INLINE __m256i join(__m128i low, __m128i high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

/// Eight rows of a matrix.
struct Rows8 {
  const Byte* row[8];
};

/// Rows [first, first + 8) of the job; beyond its end the last row stands in and is not stored.
DS4_INLINE Rows8 rows_at(const Job& job, std::uint32_t first) {
  Rows8 rows;
  for (std::uint32_t r = 0; r < 8; ++r) {
    const std::uint32_t row = first + r < job.rows ? first + r : job.rows - 1;
    rows.row[r] = reinterpret_cast<const Byte*>(job.weights) + row * job.row_bytes;
  }
  return rows;
}

DS4_INLINE const std::int8_t* record_of(const Job& job, std::uint32_t i) {
  const std::size_t row = job.x_rows != nullptr ? job.x_rows[i] : job.first_x + i;
  return reinterpret_cast<const std::int8_t*>(job.x.records + row * job.x.record_bytes);
}

DS4_INLINE const GroupInfo* info_of(const std::int8_t* record, std::uint32_t cols) {
  return reinterpret_cast<const GroupInfo*>(record + cols / kGroup * kGroupBytes);
}

/// One half-precision number of each row.
DS4_INLINE __m256 load_halves(const Rows8& rows, std::size_t offset) {
  const auto half = [&](int r) { return static_cast<short>(load_u16(rows.row[r] + offset)); };
  return _mm256_cvtph_ps(
      _mm_setr_epi16(half(0), half(1), half(2), half(3), half(4), half(5), half(6), half(7)));
}

/// The half-precision numbers in the lower halves of eight dwords.
DS4_INLINE __m256 low_halves(__m256i dwords) {
  const __m256i low = _mm256_and_si256(dwords, _mm256_set1_epi32(0xFFFF));
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
  return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}

/// The 16 bytes at `offset` of eight rows as four vectors of dwords, one lane per row.
DS4_INLINE void load_transposed(const Rows8& rows, std::size_t offset, __m256i (&out)[4]) {
  __m256i v[4];
  DS4_UNROLL
  for (int i = 0; i < 4; ++i) {
    v[i] = join(load_128(rows.row[i] + offset), load_128(rows.row[i + 4] + offset));
  }
  const __m256i a = _mm256_unpacklo_epi32(v[0], v[1]), b = _mm256_unpackhi_epi32(v[0], v[1]);
  const __m256i c = _mm256_unpacklo_epi32(v[2], v[3]), d = _mm256_unpackhi_epi32(v[2], v[3]);
  out[0] = _mm256_unpacklo_epi64(a, c);
  out[1] = _mm256_unpackhi_epi64(a, c);
  out[2] = _mm256_unpacklo_epi64(b, d);
  out[3] = _mm256_unpackhi_epi64(b, d);
}

/// Byte `index` of every dword, under a mask, as floats.
DS4_INLINE __m256 byte_to_float(__m256i dwords, int index, int mask) {
  return _mm256_cvtepi32_ps(
      _mm256_and_si256(_mm256_srli_epi32(dwords, 8 * index), _mm256_set1_epi32(mask)));
}

// scales(rows, a, b, scale, min, stride): of the step whose first block is at offset a and, in
// formats of 32 values, whose second is at b. Group g of row r goes to scale[g * stride + r], and
// its kMins minimums to min[(kMins * g + i) * stride + r].

struct LayoutQ8_0 {
  static constexpr int kBlockBytes = 34, kBlockValues = 32, kMins = 0;

  DS4_INLINE void scales(const Rows8& rows, std::size_t a, std::size_t b, float* scale, float*,
                         std::size_t stride) {
    _mm256_storeu_ps(scale, load_halves(rows, a));
    _mm256_storeu_ps(scale + stride, load_halves(rows, b));
  }
};

struct LayoutMXFP4 {
  static constexpr int kBlockBytes = 17, kBlockValues = 32, kMins = 0;

  /// Half the E8M0 scale: the bytes stand for doubled values.
  DS4_INLINE __m256 scale_at(const Rows8& rows, std::size_t offset) {
    const auto e = [&](int r) { return static_cast<char>(rows.row[r][offset]); };
    const __m256i code = _mm256_cvtepu8_epi32(
        _mm_setr_epi8(e(0), e(1), e(2), e(3), e(4), e(5), e(6), e(7), 0, 0, 0, 0, 0, 0, 0, 0));
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(code, _mm256_set1_epi32(1)), 23);
    const __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), code);
    const __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), code);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, is_small));
  }
  DS4_INLINE void scales(const Rows8& rows, std::size_t a, std::size_t b, float* scale, float*,
                         std::size_t stride) {
    _mm256_storeu_ps(scale, scale_at(rows, a));
    _mm256_storeu_ps(scale + stride, scale_at(rows, b));
  }
};

struct LayoutQ4_K {
  static constexpr int kBlockBytes = 144, kBlockValues = 256, kMins = 1;

  DS4_INLINE void scales(const Rows8& rows, std::size_t a, std::size_t, float* scale, float* min,
                         std::size_t stride) {
    __m256i head[4];  // d and dmin; scales 0..3; 4..7; 8..11
    load_transposed(rows, a, head);
    const __m256 d = low_halves(head[0]), dmin = low_halves(_mm256_srli_epi32(head[0], 16));
    const __m256i six = _mm256_set1_epi32(0x3F3F3F3F), low = _mm256_set1_epi32(0x0F0F0F0F);
    const __m256i top = _mm256_set1_epi32(0x30303030);
    const auto mix = [&](__m256i lows, __m256i tops) {
      return _mm256_or_si256(_mm256_and_si256(lows, low),
                             _mm256_and_si256(_mm256_srli_epi32(tops, 2), top));
    };
    const __m256i s[2] = {_mm256_and_si256(head[1], six), mix(head[3], head[1])};
    const __m256i m[2] = {_mm256_and_si256(head[2], six),
                          mix(_mm256_srli_epi32(head[3], 4), head[2])};
    DS4_UNROLL
    for (int g = 0; g < 8; ++g) {
      _mm256_storeu_ps(scale + g * stride, _mm256_mul_ps(d, byte_to_float(s[g / 4], g % 4, 63)));
      _mm256_storeu_ps(min + g * stride, _mm256_mul_ps(dmin, byte_to_float(m[g / 4], g % 4, 63)));
    }
  }
};

// The four-bit scales are multiplied into the two-bit values, which leaves one scale per block.
struct LayoutQ2_K {
  static constexpr int kBlockBytes = 84, kBlockValues = 256, kMins = 2;

  DS4_INLINE void scales(const Rows8& rows, std::size_t a, std::size_t, float* scale, float* min,
                         std::size_t stride) {
    const auto both = [&](int r) { return static_cast<int>(load_u32(rows.row[r] + a + 80)); };
    const __m256i halves =
        _mm256_setr_epi32(both(0), both(1), both(2), both(3), both(4), both(5), both(6), both(7));
    const __m256 d = low_halves(halves), dmin = low_halves(_mm256_srli_epi32(halves, 16));
    __m256i head[4];
    load_transposed(rows, a, head);
    DS4_UNROLL
    for (int i = 0; i < 16; ++i) {
      const __m256i m = _mm256_srli_epi32(head[i / 4], 4);
      _mm256_storeu_ps(min + i * stride, _mm256_mul_ps(dmin, byte_to_float(m, i % 4, 15)));
    }
    DS4_UNROLL
    for (int g = 0; g < 8; ++g) _mm256_storeu_ps(scale + g * stride, d);
  }
};

struct LayoutIQ2_XXS {
  static constexpr int kBlockBytes = 66, kBlockValues = 256, kMins = 0;

  DS4_INLINE void scales(const Rows8& rows, std::size_t a, std::size_t, float* scale, float*,
                         std::size_t stride) {
    const __m256 d = load_halves(rows, a);
    __m256i codes[2] = {};  // quadword g: the scale codes of eight rows, a byte each
    DS4_UNROLL
    for (int r = 0; r < 8; ++r) {
      DS4_UNROLL
      for (int h = 0; h < 2; ++h) {
        const __m256i code = _mm256_srli_epi64(load_256(rows.row[r] + a + 2 + 32 * h), 60);
        codes[h] = _mm256_or_si256(codes[h], _mm256_slli_epi64(code, 8 * r));
      }
    }
    alignas(32) Byte bytes[64];
    _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), codes[0]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(bytes + 32), codes[1]);
    DS4_UNROLL
    for (int g = 0; g < 8; ++g) {
      const __m256i code =
          _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes + 8 * g)));
      const __m256i odd = _mm256_add_epi32(_mm256_add_epi32(code, code), _mm256_set1_epi32(1));
      const __m256 factor = _mm256_mul_ps(_mm256_cvtepi32_ps(odd), _mm256_set1_ps(0.125f));
      _mm256_storeu_ps(scale + g * stride, _mm256_mul_ps(d, factor));
    }
  }
};

/// Groups of a step, and where its parts lie.
template <class F>
constexpr int kGroups = F::kBlockValues == 256 ? 8 : 2;
template <class F>
constexpr std::uint32_t kStepValues = kGroups<F>* kGroup;
template <class F>
constexpr std::size_t kStepBytes = kStepValues<F> / F::kBlockValues* F::kBlockBytes;
/// A row of 32-value blocks may end with a single one, which then serves as both of the step.
template <class F>
constexpr std::size_t kSecondBlock = F::kBlockValues == 256 ? 0 : F::kBlockBytes;

/// Rows of several kilobytes are more streams than the hardware follows, so the kernels that use
/// each weight once fetch a step of every row of the next tile as they go.
template <class F>
DS4_INLINE void prefetch_step(const Byte* p) {
  DS4_UNROLL
  for (std::size_t line = 0; line < kStepBytes<F>; line += 64)
    _mm_prefetch(reinterpret_cast<const char*>(p + line), _MM_HINT_T1);
}

/// Adds one group to the totals of eight rows, given its integer sums. Tiles wider than eight rows
/// do the same operations in the same order.
template <class F>
DS4_INLINE __m256 add_group(__m256 total, __m256i sum, const GroupInfo& info, const float* scale,
                            const float* min) {
  if constexpr (F::kBias != 0) {
    sum = _mm256_sub_epi32(sum, _mm256_set1_epi32(F::kBias * info.sum));
  }
  const __m256 factor = _mm256_mul_ps(_mm256_loadu_ps(scale), _mm256_set1_ps(info.scale));
  total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), factor, total);
  if constexpr (F::kMins == 1) {
    total = _mm256_fnmadd_ps(_mm256_loadu_ps(min), _mm256_set1_ps(info.scaled_sum), total);
  } else if constexpr (F::kMins == 2) {
    total = _mm256_fnmadd_ps(_mm256_loadu_ps(min), _mm256_set1_ps(info.scaled_half[0]), total);
    total = _mm256_fnmadd_ps(_mm256_loadu_ps(min + 8), _mm256_set1_ps(info.scaled_half[1]), total);
  }
  return total;
}

}  // namespace
}  // namespace ds4::cpu
