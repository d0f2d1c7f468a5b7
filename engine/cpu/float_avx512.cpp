// Float activations with AVX-512: the exact products, and the quantising of activation rows.
#include <immintrin.h>

#include "engine/cpu/kernels_avx512.h"
#include "engine/quant/quant.h"

#define DS4_INLINE static inline __attribute__((always_inline))

namespace ds4::cpu {
namespace {

constexpr std::uint32_t kChunk = 1024;  // columns between two horizontal sums
constexpr int kTileRows = 4;            // weight rows that share loads of activations

struct F32 {
  static constexpr int kBytes = 4;
  DS4_INLINE __m512 load(const std::byte* p, __mmask16 mask) {
    return _mm512_maskz_loadu_ps(mask, p);
  }
  DS4_INLINE __m512 load(const std::byte* p) { return _mm512_loadu_ps(p); }
};

struct F16 {
  static constexpr int kBytes = 2;
  DS4_INLINE __m512 load(const std::byte* p, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
  }
  DS4_INLINE __m512 load(const std::byte* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
};

struct BF16 {
  static constexpr int kBytes = 2;
  DS4_INLINE __m512 widen(__m256i v) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
  }
  DS4_INLINE __m512 load(const std::byte* p, __mmask16 mask) {
    return widen(_mm256_maskz_loadu_epi16(mask, p));
  }
  DS4_INLINE __m512 load(const std::byte* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
};

struct WeightRows {
  const std::byte* row[kTileRows];
};

DS4_INLINE void prefetch(const std::byte* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
}

/// The sums of four vectors. Always this tree, so that a value does not depend on its neighbours.
DS4_INLINE __m128 sum_lanes(const __m512 (&v)[kTileRows]) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
  const __m512d ab_d = _mm512_castps_pd(ab), cd_d = _mm512_castps_pd(cd);
  const __m512 abcd = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab_d, cd_d)),
                                    _mm512_castpd_ps(_mm512_unpackhi_pd(ab_d, cd_d)));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/// Dot products of `count` columns: sums[i] = four weight rows . x[i]. Weights that are used once
/// are fetched `ahead` bytes before, where the next four rows are.
template <class W, int n>
DS4_INLINE void dot_chunk(const WeightRows& w, const float* const (&x)[n], std::uint32_t count,
                          std::size_t ahead, __m128 (&sums)[n]) {
  __m512 acc[n][kTileRows];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i)
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) acc[i][r] = _mm512_setzero_ps();
  std::uint32_t col = 0;
  for (; col + 16 <= count; col += 16) {
    __m512 weights[kTileRows];
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) {
      if constexpr (n == 1) prefetch(w.row[r] + std::size_t{col} * W::kBytes + ahead);
      weights[r] = W::load(w.row[r] + std::size_t{col} * W::kBytes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) {
      const __m512 value = _mm512_loadu_ps(x[i] + col);
#pragma GCC unroll 4
      for (int r = 0; r < kTileRows; ++r) acc[i][r] = _mm512_fmadd_ps(weights[r], value, acc[i][r]);
    }
  }
  if (col < count) {
    const auto mask = static_cast<__mmask16>((1u << (count - col)) - 1);
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) {
      const __m512 weights = W::load(w.row[r] + std::size_t{col} * W::kBytes, mask);
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i)
        acc[i][r] = _mm512_fmadd_ps(weights, _mm512_maskz_loadu_ps(mask, x[i] + col), acc[i][r]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) sums[i] = sum_lanes(acc[i]);
}

/// Columns [col, col + count) of four rows, against activation rows [i, i + n).
template <class W, int n>
void add_chunk(const Job& job, const WeightRows& w, std::uint32_t i, std::uint32_t col,
               std::uint32_t count, __mmask8 mask, float* y) {
  const float* x[n];
  __m128 sums[n];
#pragma GCC unroll 16
  for (std::uint32_t k = 0; k < n; ++k) {
    const std::size_t row = job.x_rows != nullptr ? job.x_rows[i + k] : job.first_x + i + k;
    x[k] = job.x.x + row * job.x.x_stride + col;
  }
  dot_chunk<W, n>(w, x, count, kTileRows * job.row_bytes, sums);
#pragma GCC unroll 16
  for (std::uint32_t k = 0; k < n; ++k) {
    float* out = y + (i + k) * job.y_stride;
    const __m128 total = col == 0 ? sums[k] : _mm_add_ps(_mm_maskz_loadu_ps(mask, out), sums[k]);
    _mm_mask_storeu_ps(out, mask, total);
  }
}

template <class W>
DS4_INLINE void add_chunk_all(const Job& job, const WeightRows& w, std::uint32_t col,
                              std::uint32_t count, __mmask8 mask, float* y) {
  std::uint32_t i = 0;
  for (; i + 6 <= job.n; i += 6) add_chunk<W, 6>(job, w, i, col, count, mask, y);
  for (; i + 3 <= job.n; i += 3) add_chunk<W, 3>(job, w, i, col, count, mask, y);
  for (; i < job.n; ++i) add_chunk<W, 1>(job, w, i, col, count, mask, y);
}

/// Calls chunk(weights, column, columns, mask of valid rows, y of the first) for all four-row
/// tiles.
template <class Chunk>
DS4_INLINE void for_each_chunk(const Job& job, const Chunk& chunk) {
  for (std::uint32_t row = 0; row < job.rows; row += kTileRows) {
    const std::uint32_t left = job.rows - row;
    const auto mask = static_cast<__mmask8>(left >= kTileRows ? 0xF : (1u << left) - 1);
    WeightRows w;
    for (std::uint32_t r = 0; r < kTileRows; ++r) {
      w.row[r] = job.weights + (r < left ? row + r : job.rows - 1) * job.row_bytes;
    }
    for (std::uint32_t col = 0; col < job.cols; col += kChunk) {
      const std::uint32_t count = job.cols - col < kChunk ? job.cols - col : kChunk;
      chunk(w, col, count, mask, job.y + row);
    }
  }
}

template <class W>
void multiply_floats(const Job& job) {
  for_each_chunk(
      job, [&](const WeightRows& w, std::uint32_t col, std::uint32_t count, __mmask8 mask, float* y)
               __attribute__((always_inline)) {
                 WeightRows at;
                 for (int r = 0; r < kTileRows; ++r)
                   at.row[r] = w.row[r] + std::size_t{col} * W::kBytes;
                 add_chunk_all<W>(job, at, col, count, mask, y);
               });
}

void multiply_decoded(const Job& job) {
  alignas(64) float decoded[kTileRows][kChunk];
  WeightRows at;
  for (int r = 0; r < kTileRows; ++r) at.row[r] = reinterpret_cast<const std::byte*>(decoded[r]);
  for_each_chunk(
      job, [&](const WeightRows& w, std::uint32_t col, std::uint32_t count, __mmask8 mask, float* y)
               __attribute__((always_inline)) {
                 for (int r = 0; r < kTileRows; ++r) {
                   quant::dequantize_row(job.type, w.row[r] + quant::row_bytes(job.type, col),
                                         decoded[r], count);
                 }
                 add_chunk_all<F32>(job, at, col, count, mask, y);
               });
}

/// Writes the high bytes of 16 values and, kGroup further on, the low ones. Returns their sum.
DS4_INLINE std::int32_t store_values(__m512i q, std::byte* out) {
  const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(q), _mm512_set1_ps(1.0f / kHighUnit));
  const __m512i high = _mm512_cvtps_epi32(scaled);
  const __m512i low = _mm512_sub_epi32(q, _mm512_mullo_epi32(high, _mm512_set1_epi32(kHighUnit)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(high));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out + kGroup), _mm512_cvtepi32_epi8(low));
  return _mm512_reduce_add_epi32(q);
}

}  // namespace

void multiply_exact_avx512(const Job& job) {
  if (job.n == 0) return;
  switch (job.type) {
    case TensorType::kF32:
      return multiply_floats<F32>(job);
    case TensorType::kF16:
      return multiply_floats<F16>(job);
    case TensorType::kBF16:
      return multiply_floats<BF16>(job);
    default:
      return multiply_decoded(job);
  }
}

void quantize_row_avx512(const float* x, std::uint32_t cols, std::byte* record) {
  auto* info = reinterpret_cast<GroupInfo*>(record + cols / kGroup * kGroupBytes);
  for (std::uint32_t col = 0; col < cols; col += kGroup, ++info, record += kGroupBytes) {
    const __m512 first = _mm512_loadu_ps(x + col), last = _mm512_loadu_ps(x + col + 16);
    // By bits, because comparisons of floats lose a NaN.
    const __m512i bits = _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(first)),
                                          _mm512_castps_si512(_mm512_abs_ps(last)));
    const std::int32_t largest_bits = _mm512_reduce_max_epi32(bits);
    float largest;
    __builtin_memcpy(&largest, &largest_bits, sizeof largest);
    const bool is_finite = largest_bits < 0x7F800000;
    const bool is_zero = largest < kSmallestMagnitude;
    const __m512 inverse = _mm512_set1_ps(is_finite && !is_zero ? kLargestQ / largest : 0.0f);
    const auto finite = static_cast<__mmask16>(is_finite ? 0xFFFF : 0);
    const std::int32_t sums[2] = {
        store_values(_mm512_maskz_cvtps_epi32(finite, _mm512_mul_ps(first, inverse)), record),
        store_values(_mm512_maskz_cvtps_epi32(finite, _mm512_mul_ps(last, inverse)), record + 16)};
    info->scale = !is_finite ? __builtin_nanf("") : is_zero ? 0.0f : largest / kLargestQ;
    info->sum = sums[0] + sums[1];
    info->scaled_sum = info->scale * static_cast<float>(info->sum);
    info->scaled_half[0] = info->scale * static_cast<float>(sums[0]);
    info->scaled_half[1] = info->scale * static_cast<float>(sums[1]);
  }
}

}  // namespace ds4::cpu
