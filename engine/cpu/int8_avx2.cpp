// Quantised weights times quantised activations with AVX2. The same two shapes and the same order
// of summation as int8_avx512.cpp, which explains them, with eight rows to a tile.
#include "engine/cpu/blocks_avx2.h"
#include "engine/cpu/kernels_avx2.h"

namespace ds4::cpu {
namespace {

constexpr std::uint32_t kMaxRowsShape = 2;  // activation rows up to which the rows shape is faster
constexpr std::uint32_t kTileCols = 512;    // unpacked at a time, so that a tile stays in L1
constexpr std::uint32_t kTileGroups = kTileCols / kGroup;

/// Products of 32 bytes added up in pairs, as 16-bit numbers. In signed formats the sign of w moves
/// over to x, since the instruction wants one operand unsigned.
template <class F>
DS4_INLINE __m256i dot_pairs(__m256i w, __m256i x) {
  if constexpr (F::kIsSigned) {
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  } else {
    return _mm256_maddubs_epi16(w, x);
  }
}

/// Those 16-bit sums of the high and of the low bytes added up, as 32-bit numbers.
DS4_INLINE __m256i add_pairs(__m256i high, __m256i low) {
  return _mm256_add_epi32(_mm256_madd_epi16(high, _mm256_set1_epi16(kHighUnit)),
                          _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
}

/// The sums of eight vectors of eight.
DS4_INLINE __m256i sum_rows(const __m256i (&v)[8]) {
  __m256i pairs[4], fours[2];
  DS4_UNROLL
  for (int i = 0; i < 4; ++i) pairs[i] = _mm256_hadd_epi32(v[2 * i], v[2 * i + 1]);
  DS4_UNROLL
  for (int i = 0; i < 2; ++i) fours[i] = _mm256_hadd_epi32(pairs[2 * i], pairs[2 * i + 1]);
  return _mm256_add_epi32(_mm256_permute2x128_si256(fours[0], fours[1], 0x20),
                          _mm256_permute2x128_si256(fours[0], fours[1], 0x31));
}

template <class F, int n, int g>
DS4_INLINE void add_one_group(const F& format, const Rows8& rows, std::size_t offset,
                              const std::int8_t* const (&q)[n], const GroupInfo* const (&info)[n],
                              const float* scale, const float* min, __m256 (&totals)[n]) {
  __m256i dots[n][8];
  DS4_UNROLL
  for (int r = 0; r < 8; ++r) {
    const __m256i w = format.template weights<g>(rows.row[r] + offset);
    DS4_UNROLL
    for (int i = 0; i < n; ++i) {
      const std::int8_t* x = q[i] + g * kGroupBytes;
      dots[i][r] = add_pairs(dot_pairs<F>(w, load_256(x)), dot_pairs<F>(w, load_256(x + kGroup)));
    }
  }
  DS4_UNROLL
  for (int i = 0; i < n; ++i) {
    totals[i] = add_group<F>(totals[i], sum_rows(dots[i]), info[i][g], scale + 8 * g,
                             min + 8 * F::kMins * g);
  }
}

/// `groups` is kGroups, or 1 at the end of an odd row of 32-value blocks.
template <class F, int n>
DS4_INLINE void add_step(const F& format, const Rows8& rows, std::size_t a, std::size_t b,
                         int groups, const std::int8_t* const (&q)[n],
                         const GroupInfo* const (&info)[n], __m256 (&totals)[n]) {
  float scale[kGroups<F> * 8], min[F::kMins == 0 ? 1 : F::kMins * kGroups<F> * 8];
  F::scales(rows, a, b, scale, min, 8);
  add_one_group<F, n, 0>(format, rows, a, q, info, scale, min, totals);
  if (groups == 1) return;
  add_one_group<F, n, 1>(format, rows, b, q, info, scale, min, totals);
  if constexpr (kGroups<F> == 8) {
    add_one_group<F, n, 2>(format, rows, a, q, info, scale, min, totals);
    add_one_group<F, n, 3>(format, rows, a, q, info, scale, min, totals);
    add_one_group<F, n, 4>(format, rows, a, q, info, scale, min, totals);
    add_one_group<F, n, 5>(format, rows, a, q, info, scale, min, totals);
    add_one_group<F, n, 6>(format, rows, a, q, info, scale, min, totals);
    add_one_group<F, n, 7>(format, rows, a, q, info, scale, min, totals);
  }
}

/// All ones in the lanes below `n`.
DS4_INLINE __m256i lane_mask(std::uint32_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n < 8 ? n : 8)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

template <class F, int n>
void multiply_rows(const Job& job) {
  const F format;
  for (std::uint32_t row = 0; row < job.rows; row += 8) {
    const Rows8 rows = rows_at(job, row);
    const std::int8_t* q[n];
    const GroupInfo* info[n];
    __m256 totals[n];
    for (std::uint32_t i = 0; i < n; ++i) {
      q[i] = record_of(job, i);
      info[i] = info_of(q[i], job.cols);
      totals[i] = _mm256_setzero_ps();
    }
    std::size_t offset = 0;
    std::uint32_t col = 0;
    for (; col + kStepValues<F> <= job.cols; col += kStepValues<F>, offset += kStepBytes<F>) {
      DS4_UNROLL
      for (int r = 0; r < 8; ++r) prefetch_step<F>(rows.row[r] + offset + 8 * job.row_bytes);
      add_step<F, n>(format, rows, offset, offset + kSecondBlock<F>, kGroups<F>, q, info, totals);
      for (int i = 0; i < n; ++i) q[i] += kGroups<F> * kGroupBytes, info[i] += kGroups<F>;
    }
    if constexpr (kGroups<F> == 2) {
      if (col < job.cols) add_step<F, n>(format, rows, offset, offset, 1, q, info, totals);
    }
    const __m256i mask = lane_mask(job.rows - row);
    for (std::uint32_t i = 0; i < n; ++i)
      _mm256_maskstore_ps(job.y + i * job.y_stride + row, mask, totals[i]);
  }
}

/// Eight weight rows, some columns: dword 8 * k + r holds bytes 4k..4k+3 of row r.
template <class F>
struct Tile {
  alignas(32) std::uint32_t weights[kTileCols / 4 * 8];
  alignas(32) float scale[kTileGroups * 8];
  alignas(32) float min[F::kMins == 0 ? 1 : F::kMins * kTileGroups * 8];
};

/// Stores eight vectors of eight dwords column by column.
DS4_INLINE void store_transposed(const __m256i (&v)[8], std::uint32_t* out) {
  __m256i t[8], u[8];
  DS4_UNROLL
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
  DS4_UNROLL
  for (int i = 0; i < 2; ++i) {
    u[4 * i] = _mm256_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 1] = _mm256_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 2] = _mm256_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    u[4 * i + 3] = _mm256_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  DS4_UNROLL
  for (int c = 0; c < 4; ++c) {
    const __m256i low = _mm256_permute2x128_si256(u[c], u[4 + c], 0x20);
    const __m256i high = _mm256_permute2x128_si256(u[c], u[4 + c], 0x31);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 8 * c), low);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 8 * (c + 4)), high);
  }
}

template <class F, int g>
DS4_INLINE void unpack_group(const F& format, const Rows8& rows, std::size_t offset,
                             std::uint32_t* out) {
  __m256i v[8];
  DS4_UNROLL
  for (int r = 0; r < 8; ++r) v[r] = format.template weights<g>(rows.row[r] + offset);
  store_transposed(v, out + g * 64);
}

/// Unpacks columns [first, first + count).
template <class F>
void unpack_tile(const F& format, const Rows8& rows, std::uint32_t first, std::uint32_t count,
                 Tile<F>& tile) {
  std::size_t a = first / F::kBlockValues * std::size_t{F::kBlockBytes};
  for (std::uint32_t group = 0; group < count / kGroup; group += kGroups<F>, a += kStepBytes<F>) {
    const bool is_whole = group + kGroups<F> <= count / kGroup;
    const std::size_t b = is_whole ? a + kSecondBlock<F> : a;
    F::scales(rows, a, b, tile.scale + group * 8, tile.min + F::kMins * group * 8, 8);
    std::uint32_t* out = tile.weights + group * 64;
    unpack_group<F, 0>(format, rows, a, out);
    if (!is_whole) return;
    unpack_group<F, 1>(format, rows, b, out);
    if constexpr (kGroups<F> == 8) {
      unpack_group<F, 2>(format, rows, a, out);
      unpack_group<F, 3>(format, rows, a, out);
      unpack_group<F, 4>(format, rows, a, out);
      unpack_group<F, 5>(format, rows, a, out);
      unpack_group<F, 6>(format, rows, a, out);
      unpack_group<F, 7>(format, rows, a, out);
    }
  }
}

/// The integer sums of one group of a tile.
template <class F, int n>
DS4_INLINE void dot_tile(const std::uint32_t* weights, const std::int8_t* const (&q)[n],
                         std::uint32_t at, __m256i (&sums)[n]) {
  const auto four = [&](int i, int k) __attribute__((always_inline)) {
    std::int32_t bytes;
    __builtin_memcpy(&bytes, q[i] + at + 4 * k, sizeof bytes);
    return _mm256_set1_epi32(bytes);
  };
  DS4_UNROLL
  for (int i = 0; i < n; ++i) sums[i] = _mm256_setzero_si256();
  DS4_UNROLL
  for (int first = 0; first < 8; first += F::kFold) {
    __m256i high[n], low[n];
    DS4_UNROLL
    for (int k = first; k < first + F::kFold; ++k) {
      const __m256i w = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights + 8 * k));
      DS4_UNROLL
      for (int i = 0; i < n; ++i) {
        const __m256i high_pairs = dot_pairs<F>(w, four(i, k));
        const __m256i low_pairs = dot_pairs<F>(w, four(i, k + 8));
        high[i] = k == first ? high_pairs : _mm256_add_epi16(high[i], high_pairs);
        low[i] = k == first ? low_pairs : _mm256_add_epi16(low[i], low_pairs);
      }
    }
    DS4_UNROLL
    for (int i = 0; i < n; ++i) sums[i] = _mm256_add_epi32(sums[i], add_pairs(high[i], low[i]));
  }
}

/// One tile against activation rows [i, i + n); totals wait in y between two stretches of columns.
template <class F, int n>
void tile_rows(const Job& job, const Tile<F>& tile, std::uint32_t row, std::uint32_t i,
               std::uint32_t first_col, std::uint32_t count) {
  const __m256i mask = lane_mask(job.rows - row);
  const std::int8_t* q[n];
  __m256 totals[n];
  DS4_UNROLL
  for (int k = 0; k < n; ++k) {
    const std::uint32_t x = i + static_cast<std::uint32_t>(k);
    q[k] = record_of(job, x) + first_col / kGroup * kGroupBytes;
    totals[k] = first_col == 0 ? _mm256_setzero_ps()
                               : _mm256_maskload_ps(job.y + x * job.y_stride + row, mask);
  }
  // From q[k], which is at column first_col, to the info of that column's group.
  const std::size_t info_offset =
      (job.cols - first_col) / kGroup * kGroupBytes + first_col / kGroup * sizeof(GroupInfo);
  for (std::uint32_t group = 0; group < count / kGroup; ++group) {
    __m256i sums[n];
    dot_tile<F, n>(tile.weights + group * 64, q, group * kGroupBytes, sums);
    DS4_UNROLL
    for (int k = 0; k < n; ++k) {
      const auto* info = reinterpret_cast<const GroupInfo*>(q[k] + info_offset) + group;
      totals[k] = add_group<F>(totals[k], sums[k], *info, tile.scale + group * 8,
                               tile.min + F::kMins * group * 8);
    }
  }
  DS4_UNROLL
  for (int k = 0; k < n; ++k) {
    const std::uint32_t x = i + static_cast<std::uint32_t>(k);
    _mm256_maskstore_ps(job.y + x * job.y_stride + row, mask, totals[k]);
  }
}

template <class F>
void multiply_tiles(const Job& job) {
  const F format;
  Tile<F> tile;
  for (std::uint32_t row = 0; row < job.rows; row += 8) {
    const Rows8 rows = rows_at(job, row);
    for (std::uint32_t col = 0; col < job.cols; col += kTileCols) {
      const std::uint32_t count = job.cols - col < kTileCols ? job.cols - col : kTileCols;
      unpack_tile<F>(format, rows, col, count, tile);
      std::uint32_t i = 0;
      for (; i + 4 <= job.n; i += 4) tile_rows<F, 4>(job, tile, row, i, col, count);
      for (; i < job.n; ++i) tile_rows<F, 1>(job, tile, row, i, col, count);
    }
  }
}

template <class F>
void multiply(const Job& job) {
  switch (job.n) {
    case 0:
      return;
    case 1:
      return multiply_rows<F, 1>(job);
    case kMaxRowsShape:
      return multiply_rows<F, 2>(job);
    default:
      return multiply_tiles<F>(job);
  }
}

}  // namespace

void multiply_fast_avx2(const Job& job) {
  switch (job.type) {
    case TensorType::kQ8_0:
      return multiply<Q8_0>(job);
    case TensorType::kQ4_K:
      return multiply<Q4_K>(job);
    case TensorType::kQ2_K:
      return multiply<Q2_K>(job);
    case TensorType::kIQ2_XXS:
      return multiply<IQ2_XXS>(job);
    case TensorType::kMXFP4:
      return multiply<MXFP4>(job);
    default:
      __builtin_unreachable();
  }
}

}  // namespace ds4::cpu
