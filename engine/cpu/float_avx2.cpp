// Float activations with AVX2: the exact products, and the quantising of activation rows. The
// twin of float_avx512.cpp.
#include <immintrin.h>

#include "engine/cpu/kernels_avx2.h"
#include "engine/quant/quant.h"

#define DS4_INLINE static inline __attribute__((always_inline))

namespace ds4::cpu {
namespace {

constexpr std::uint32_t kChunk = 1024;  // columns between two horizontal sums
constexpr int kTileRows = 4;            // weight rows that share loads of activations

struct F32 {
  static constexpr int kBytes = 4;
  DS4_INLINE __m256 load(const std::byte* p) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  }
};

struct F16 {
  static constexpr int kBytes = 2;
  DS4_INLINE __m256 load(const std::byte* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
};

struct BF16 {
  static constexpr int kBytes = 2;
  DS4_INLINE __m256 load(const std::byte* p) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
  }
};

/// The first `count` < 8 values at p, then zeros.
template <class W>
DS4_INLINE __m256 load_some(const std::byte* p, std::uint32_t count) {
  alignas(32) std::byte padded[32] = {};
  __builtin_memcpy(padded, p, count * std::size_t{W::kBytes});
  return W::load(padded);
}

struct WeightRows {
  const std::byte* row[kTileRows];
};

DS4_INLINE void prefetch(const std::byte* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
}

/// The sums of four vectors. Always this tree, so that a value does not depend on its neighbours.
DS4_INLINE __m128 sum_lanes(const __m256 (&v)[kTileRows]) {
  const __m256 abcd = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

/// Dot products of `count` columns: sums[i] = four weight rows . x[i]. Weights that are used once
/// are fetched `ahead` bytes before, where the next four rows are.
template <class W, int n>
DS4_INLINE void dot_chunk(const WeightRows& w, const float* const (&x)[n], std::uint32_t count,
                          std::size_t ahead, __m128 (&sums)[n]) {
  __m256 acc[n][kTileRows];
#pragma GCC unroll 2
  for (int i = 0; i < n; ++i)
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) acc[i][r] = _mm256_setzero_ps();
  const std::uint32_t whole = count / 8 * 8;
  for (std::uint32_t col = 0; col < whole; col += 8) {
    __m256 value[n];
#pragma GCC unroll 2
    for (int i = 0; i < n; ++i) value[i] = _mm256_loadu_ps(x[i] + col);
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) {
      if constexpr (n == 1) prefetch(w.row[r] + std::size_t{col} * W::kBytes + ahead);
      const __m256 weights = W::load(w.row[r] + std::size_t{col} * W::kBytes);
#pragma GCC unroll 2
      for (int i = 0; i < n; ++i) acc[i][r] = _mm256_fmadd_ps(weights, value[i], acc[i][r]);
    }
  }
  if (whole < count) {
    for (int i = 0; i < n; ++i) {
      const auto* rest = reinterpret_cast<const std::byte*>(x[i] + whole);
      const __m256 value = load_some<F32>(rest, count - whole);
      for (int r = 0; r < kTileRows; ++r) {
        const std::byte* p = w.row[r] + std::size_t{whole} * W::kBytes;
        acc[i][r] = _mm256_fmadd_ps(load_some<W>(p, count - whole), value, acc[i][r]);
      }
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < n; ++i) sums[i] = sum_lanes(acc[i]);
}

/// Columns [col, col + count) of four rows, against activation rows [i, i + n).
template <class W, int n>
void add_chunk(const Job& job, const WeightRows& w, std::uint32_t i, std::uint32_t col,
               std::uint32_t count, __m128i mask, float* y) {
  const float* x[n];
  __m128 sums[n];
#pragma GCC unroll 2
  for (std::uint32_t k = 0; k < n; ++k) {
    const std::size_t row = job.x_rows != nullptr ? job.x_rows[i + k] : job.first_x + i + k;
    x[k] = job.x.x + row * job.x.x_stride + col;
  }
  dot_chunk<W, n>(w, x, count, kTileRows * job.row_bytes, sums);
#pragma GCC unroll 2
  for (std::uint32_t k = 0; k < n; ++k) {
    float* out = y + (i + k) * job.y_stride;
    _mm_maskstore_ps(out, mask,
                     col == 0 ? sums[k] : _mm_add_ps(_mm_maskload_ps(out, mask), sums[k]));
  }
}

template <class W>
DS4_INLINE void add_chunk_all(const Job& job, const WeightRows& w, std::uint32_t col,
                              std::uint32_t count, __m128i mask, float* y) {
  std::uint32_t i = 0;
  for (; i + 2 <= job.n; i += 2) add_chunk<W, 2>(job, w, i, col, count, mask, y);
  if (i < job.n) add_chunk<W, 1>(job, w, i, col, count, mask, y);
}

/// Calls chunk(weights, column, columns, mask of valid rows, y of the first) for all four-row
/// tiles.
template <class Chunk>
DS4_INLINE void for_each_chunk(const Job& job, const Chunk& chunk) {
  for (std::uint32_t row = 0; row < job.rows; row += kTileRows) {
    const std::uint32_t left = job.rows - row;
    const __m128i mask = _mm_cmpgt_epi32(_mm_set1_epi32(static_cast<int>(left < 4 ? left : 4)),
                                         _mm_setr_epi32(0, 1, 2, 3));
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
      job, [&](const WeightRows& w, std::uint32_t col, std::uint32_t count, __m128i mask, float* y)
               __attribute__((always_inline)) {
                 WeightRows at;
                 for (int r = 0; r < kTileRows; ++r)
                   at.row[r] = w.row[r] + std::size_t{col} * W::kBytes;
                 add_chunk_all<W>(job, at, col, count, mask, y);
               });
}

void multiply_decoded(const Job& job) {
  alignas(32) float decoded[kTileRows][kChunk];
  WeightRows at;
  for (int r = 0; r < kTileRows; ++r) at.row[r] = reinterpret_cast<const std::byte*>(decoded[r]);
  for_each_chunk(
      job, [&](const WeightRows& w, std::uint32_t col, std::uint32_t count, __m128i mask, float* y)
               __attribute__((always_inline)) {
                 for (int r = 0; r < kTileRows; ++r) {
                   quant::dequantize_row(job.type, w.row[r] + quant::row_bytes(job.type, col),
                                         decoded[r], count);
                 }
                 add_chunk_all<F32>(job, at, col, count, mask, y);
               });
}

DS4_INLINE std::int32_t largest_lane(__m256i v) {
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4E));
  return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xB1)));
}

DS4_INLINE std::int32_t sum_lanes(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
}

DS4_INLINE void store_bytes(const __m256i (&q)[4], std::byte* out) {
  const __m256i mixed =
      _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(out),
      _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}

/// Writes a group's high bytes and its low ones.
DS4_INLINE void store_values(const __m256i (&q)[4], std::byte* out) {
  __m256i high[4], low[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    high[i] = _mm256_cvtps_epi32(
        _mm256_mul_ps(_mm256_cvtepi32_ps(q[i]), _mm256_set1_ps(1.0f / kHighUnit)));
    low[i] = _mm256_sub_epi32(q[i], _mm256_mullo_epi32(high[i], _mm256_set1_epi32(kHighUnit)));
  }
  store_bytes(high, out);
  store_bytes(low, out + kGroup);
}

}  // namespace

void multiply_exact_avx2(const Job& job) {
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

void quantize_row_avx2(const float* x, std::uint32_t cols, std::byte* record) {
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
  auto* info = reinterpret_cast<GroupInfo*>(record + cols / kGroup * kGroupBytes);
  for (std::uint32_t col = 0; col < cols; col += kGroup, ++info, record += kGroupBytes) {
    __m256 v[4];
    __m256i bits = _mm256_setzero_si256();  // compared as integers: floats would lose a NaN
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm256_loadu_ps(x + col + 8 * i);
      bits = _mm256_max_epi32(bits, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
    }
    const std::int32_t largest_bits = largest_lane(bits);
    float largest;
    __builtin_memcpy(&largest, &largest_bits, sizeof largest);
    const bool is_finite = largest_bits < 0x7F800000;
    const bool is_zero = largest < kSmallestMagnitude;
    const __m256 inverse = _mm256_set1_ps(is_finite && !is_zero ? kLargestQ / largest : 0.0f);
    const __m256i finite = _mm256_set1_epi32(is_finite ? -1 : 0);
    __m256i q[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      q[i] = _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse)), finite);
    store_values(q, record);
    const std::int32_t sums[2] = {sum_lanes(_mm256_add_epi32(q[0], q[1])),
                                  sum_lanes(_mm256_add_epi32(q[2], q[3]))};
    info->scale = !is_finite ? __builtin_nanf("") : is_zero ? 0.0f : largest / kLargestQ;
    info->sum = sums[0] + sums[1];
    info->scaled_sum = info->scale * static_cast<float>(info->sum);
    info->scaled_half[0] = info->scale * static_cast<float>(sums[0]);
    info->scaled_half[1] = info->scale * static_cast<float>(sums[1]);
  }
}

}  // namespace ds4::cpu
