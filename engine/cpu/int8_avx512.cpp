// Quantised weights times quantised activations with AVX-512 VNNI.
//
// Two shapes, one order of summation. Both work on integer sums of 32 products, which are exact,
// and add them up in floats group after group, one lane per weight row. An unpacked weight meets
// the high and the low byte of an activation.
//   - rows: eight weight rows against up to three activation rows. Lanes run along the row, and a
//     tree of shuffles turns eight vectors of partial sums into one vector of sums. Weights are
//     used as they stream by: the shape for decoding.
//   - tile: sixteen weight rows are unpacked once into a small buffer, four bytes of each row side
//     by side, and meet many activation rows without any shuffles: the shape for prefill.
#include "engine/cpu/blocks_avx512.h"
#include "engine/cpu/kernels_avx512.h"

namespace ds4::cpu {
namespace {

constexpr std::uint32_t kMaxRowsShape = 3;  // activation rows up to which the rows shape is faster
constexpr std::uint32_t kTileCols = 512;    // unpacked at a time, so that a tile stays in L1
constexpr std::uint32_t kTileGroups = kTileCols / kGroup;

/// Sums of eight vectors: of their lower halves in the lower half, row by row, and of their upper
/// halves in the upper.
DS4_INLINE __m512i sum_rows(const __m512i (&v)[8]) {
  __m512i pairs[4], fours[2];
  DS4_UNROLL
  for (int i = 0; i < 4; ++i) {
    pairs[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
  }
  DS4_UNROLL
  for (int i = 0; i < 2; ++i) {
    fours[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                _mm512_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
  }
  const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
  const __m512i odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  return _mm512_add_epi32(_mm512_permutex2var_epi64(fours[0], even, fours[1]),
                          _mm512_permutex2var_epi64(fours[0], odd, fours[1]));
}

DS4_INLINE __m512i times_high_unit(__m512i v) {
  static_assert(kHighUnit == 255);
  return _mm512_sub_epi32(_mm512_slli_epi32(v, 8), v);
}

template <class F, int n, int j>
DS4_INLINE void dot_vector(const F& format, const Rows8& rows, std::size_t a, std::size_t b,
                           const std::int8_t* const (&q)[n], std::uint32_t second_group,
                           __m256i (&sums)[kGroups<F>][n]) {
  __m512i weights[8];
  DS4_UNROLL
  for (int r = 0; r < 8; ++r) {
    weights[r] = format.template weights<j>(rows.row[r] + a, rows.row[r] + b);
  }
  DS4_UNROLL
  for (int i = 0; i < n; ++i) {
    const std::int8_t* first = q[i] + F::first_group(j) * kGroupBytes;
    const std::int8_t* second = q[i] + second_group * kGroupBytes;
    const __m512i high = join(load_256(first), load_256(second));
    const __m512i low = join(load_256(first + kGroup), load_256(second + kGroup));
    __m512i dots[8];
    DS4_UNROLL
    for (int r = 0; r < 8; ++r) {
      dots[r] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights[r], high);
      dots[r] = _mm512_dpbusd_epi32(times_high_unit(dots[r]), weights[r], low);
    }
    const __m512i both = sum_rows(dots);
    sums[F::first_group(j)][i] = _mm512_castsi512_si256(both);
    sums[F::second_group(j)][i] = _mm512_extracti64x4_epi64(both, 1);
  }
}

/// One step of eight rows: `groups` is kGroups, or 1 at the end of an odd row of 32-value blocks.
template <class F, int n>
DS4_INLINE void add_step(const F& format, const Rows8& rows, std::size_t a, std::size_t b,
                         int groups, const std::int8_t* const (&q)[n],
                         const GroupInfo* const (&info)[n], __m256 (&totals)[n]) {
  float scale[kGroups<F> * 8], min[F::kMins == 0 ? 1 : F::kMins * kGroups<F> * 8];
  F::scales(rows, a, b, scale, min, 8);
  __m256i sums[kGroups<F>][n];
  if constexpr (F::kVectors == 1) {
    dot_vector<F, n, 0>(format, rows, a, b, q, static_cast<std::uint32_t>(groups) - 1, sums);
  } else {
    dot_vector<F, n, 0>(format, rows, a, b, q, F::second_group(0), sums);
    dot_vector<F, n, 1>(format, rows, a, b, q, F::second_group(1), sums);
    dot_vector<F, n, 2>(format, rows, a, b, q, F::second_group(2), sums);
    dot_vector<F, n, 3>(format, rows, a, b, q, F::second_group(3), sums);
  }
  const auto add = [&](int g) __attribute__((always_inline)) {
    for (int i = 0; i < n; ++i) {
      totals[i] =
          add_group<F>(totals[i], sums[g][i], info[i][g], scale + 8 * g, min + 8 * F::kMins * g);
    }
  };
  if constexpr (F::kVectors == 1) {
    add(0);
    if (groups == 2) add(1);
  } else {
    DS4_UNROLL
    for (int g = 0; g < kGroups<F>; ++g) add(g);
  }
}

template <class F, int n>
void multiply_rows(const Job& job) {
  const F format;
  for (std::uint32_t row = 0; row < job.rows; row += 8) {
    const Rows8 rows = rows_at(job, row);
    const std::int8_t* q[n];
    const GroupInfo* info[n];
    __m256 totals[n];
    DS4_UNROLL
    for (int i = 0; i < n; ++i) {
      q[i] = record_of(job, static_cast<std::uint32_t>(i));
      info[i] = info_of(q[i], job.cols);
      totals[i] = _mm256_setzero_ps();
    }
    std::size_t offset = 0;
    std::uint32_t col = 0;
    for (; col + kStepValues<F> <= job.cols; col += kStepValues<F>, offset += kStepBytes<F>) {
      prefetch_step<F>(rows, offset + 8 * job.row_bytes);
      add_step<F, n>(format, rows, offset, offset + kSecondBlock<F>, kGroups<F>, q, info, totals);
      DS4_UNROLL
      for (int i = 0; i < n; ++i) q[i] += kGroups<F> * kGroupBytes, info[i] += kGroups<F>;
    }
    if constexpr (F::kVectors == 1) {
      if (col < job.cols) add_step<F, n>(format, rows, offset, offset, 1, q, info, totals);
    }
    const std::uint32_t left = job.rows - row;
    const auto mask = static_cast<__mmask8>(left >= 8 ? 0xFF : (1u << left) - 1);
    for (std::uint32_t i = 0; i < n; ++i) {
      _mm256_mask_storeu_ps(job.y + i * job.y_stride + row, mask, totals[i]);
    }
  }
}

/// Sixteen weight rows, some columns: dword 16 * k + r holds bytes 4k..4k+3 of row r.
template <class F>
struct Tile {
  alignas(64) std::uint32_t weights[kTileCols / 4 * 16];
  alignas(64) float scale[kTileGroups * 16];
  alignas(64) float min[F::kMins == 0 ? 1 : F::kMins * kTileGroups * 16];
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

template <class F, int j>
void unpack_vector(const F& format, const Rows8& top, const Rows8& bottom, std::size_t a,
                   std::size_t b, bool has_second, std::uint32_t* out) {
  // Through memory: kept in registers, they would leave none to formats that take many to unpack.
  alignas(64) Byte unpacked[16][64];
  for (int r = 0; r < 8; ++r) {
    _mm512_store_si512(unpacked[r], format.template weights<j>(top.row[r] + a, top.row[r] + b));
    _mm512_store_si512(unpacked[r + 8],
                       format.template weights<j>(bottom.row[r] + a, bottom.row[r] + b));
  }
  __m512i v[16];
  DS4_UNROLL
  for (int r = 0; r < 16; ++r) v[r] = _mm512_load_si512(unpacked[r]);
  transpose(v);
  DS4_UNROLL
  for (int k = 0; k < 8; ++k) _mm512_store_si512(out + (F::first_group(j) * 8 + k) * 16, v[k]);
  if (!has_second) return;
  DS4_UNROLL
  for (int k = 0; k < 8; ++k) _mm512_store_si512(out + (F::second_group(j) * 8 + k) * 16, v[k + 8]);
}

/// Unpacks columns [first, first + count).
template <class F>
void unpack_tile(const F& format, const Rows8& top, const Rows8& bottom, std::uint32_t first,
                 std::uint32_t count, Tile<F>& tile) {
  std::size_t a = first / F::kBlockValues * std::size_t{F::kBlockBytes};
  for (std::uint32_t group = 0; group < count / kGroup; group += kGroups<F>, a += kStepBytes<F>) {
    const bool is_whole = group + kGroups<F> <= count / kGroup;
    const std::size_t b = is_whole ? a + kSecondBlock<F> : a;
    float* scale = tile.scale + group * 16;
    float* min = tile.min + F::kMins * group * 16;
    F::scales(top, a, b, scale, min, 16);
    F::scales(bottom, a, b, scale + 8, min + 8, 16);
    std::uint32_t* out = tile.weights + group * 8 * 16;
    unpack_vector<F, 0>(format, top, bottom, a, b, is_whole, out);
    if constexpr (F::kVectors == 4) {
      unpack_vector<F, 1>(format, top, bottom, a, b, true, out);
      unpack_vector<F, 2>(format, top, bottom, a, b, true, out);
      unpack_vector<F, 3>(format, top, bottom, a, b, true, out);
    }
  }
}

template <class F, int n>
DS4_INLINE void multiply_tile(const Tile<F>& tile, const std::int8_t* const (&q)[n],
                              std::uint32_t groups, std::size_t info_offset, __m512 (&totals)[n]) {
  for (std::uint32_t group = 0; group < groups; ++group) {
    const std::uint32_t* weights = tile.weights + group * 8 * 16;
    const std::size_t info_at = info_offset + group * sizeof(GroupInfo);
    const auto info = [&](int i) __attribute__((always_inline)) {
      return reinterpret_cast<const GroupInfo*>(q[i] + info_at);
    };
    const auto four = [&](int i, int k) __attribute__((always_inline)) {
      std::int32_t bytes;
      __builtin_memcpy(&bytes, q[i] + group * kGroupBytes + 4 * k, sizeof bytes);
      return _mm512_set1_epi32(bytes);
    };
    __m512i high[n], sums[n];
    DS4_UNROLL
    for (int i = 0; i < n; ++i) {
      high[i] = _mm512_setzero_si512();
      sums[i] =
          F::kBias == 0 ? _mm512_setzero_si512() : _mm512_set1_epi32(-F::kBias * info(i)->sum);
    }
    DS4_UNROLL
    for (int k = 0; k < 8; ++k) {
      const __m512i w = _mm512_load_si512(weights + 16 * k);
      DS4_UNROLL
      for (int i = 0; i < n; ++i) {
        high[i] = _mm512_dpbusd_epi32(high[i], w, four(i, k));
        sums[i] = _mm512_dpbusd_epi32(sums[i], w, four(i, k + 8));
      }
    }
    const __m512 scale = _mm512_load_ps(tile.scale + group * 16);
    const float* min = tile.min + F::kMins * group * 16;
    DS4_UNROLL
    for (int i = 0; i < n; ++i) {
      sums[i] = _mm512_add_epi32(sums[i], times_high_unit(high[i]));
      const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(info(i)->scale));
      totals[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i]), factor, totals[i]);
      if constexpr (F::kMins == 1) {
        totals[i] =
            _mm512_fnmadd_ps(_mm512_load_ps(min), _mm512_set1_ps(info(i)->scaled_sum), totals[i]);
      } else if constexpr (F::kMins == 2) {
        totals[i] = _mm512_fnmadd_ps(_mm512_load_ps(min), _mm512_set1_ps(info(i)->scaled_half[0]),
                                     totals[i]);
        totals[i] = _mm512_fnmadd_ps(_mm512_load_ps(min + 16),
                                     _mm512_set1_ps(info(i)->scaled_half[1]), totals[i]);
      }
    }
  }
}

/// One tile against activation rows [i, i + n); totals wait in y between two stretches of columns.
template <class F, int n>
void tile_rows(const Job& job, const Tile<F>& tile, std::uint32_t row, std::uint32_t i,
               std::uint32_t first_col, std::uint32_t count, __mmask16 mask) {
  const std::int8_t* q[n];
  __m512 totals[n];
  DS4_UNROLL
  for (int k = 0; k < n; ++k) {
    const std::uint32_t x = i + static_cast<std::uint32_t>(k);
    q[k] = record_of(job, x) + first_col / kGroup * kGroupBytes;
    totals[k] = first_col == 0 ? _mm512_setzero_ps()
                               : _mm512_maskz_loadu_ps(mask, job.y + x * job.y_stride + row);
  }
  // From q[k], which is at column first_col, to the info of that column's group.
  const std::size_t info_offset =
      (job.cols - first_col) / kGroup * kGroupBytes + first_col / kGroup * sizeof(GroupInfo);
  multiply_tile<F, n>(tile, q, count / kGroup, info_offset, totals);
  DS4_UNROLL
  for (int k = 0; k < n; ++k) {
    const std::uint32_t x = i + static_cast<std::uint32_t>(k);
    _mm512_mask_storeu_ps(job.y + x * job.y_stride + row, mask, totals[k]);
  }
}

template <class F>
void multiply_tiles(const Job& job) {
  const F format;
  Tile<F> tile;
  for (std::uint32_t row = 0; row < job.rows; row += 16) {
    const Rows8 top = rows_at(job, row), bottom = rows_at(job, row + 8);
    const std::uint32_t left = job.rows - row;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xFFFF : (1u << left) - 1);
    for (std::uint32_t col = 0; col < job.cols; col += kTileCols) {
      const std::uint32_t count = job.cols - col < kTileCols ? job.cols - col : kTileCols;
      unpack_tile<F>(format, top, bottom, col, count, tile);
      std::uint32_t i = 0;
      for (; i + 8 <= job.n; i += 8) tile_rows<F, 8>(job, tile, row, i, col, count, mask);
      for (; i + 4 <= job.n; i += 4) tile_rows<F, 4>(job, tile, row, i, col, count, mask);
      for (; i + 2 <= job.n; i += 2) tile_rows<F, 2>(job, tile, row, i, col, count, mask);
      for (; i < job.n; ++i) tile_rows<F, 1>(job, tile, row, i, col, count, mask);
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
    case 2:
      return multiply_rows<F, 2>(job);
    case kMaxRowsShape:
      return multiply_rows<F, 3>(job);
    default:
      return multiply_tiles<F>(job);
  }
}

}  // namespace

void multiply_fast_avx512(const Job& job) {
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
