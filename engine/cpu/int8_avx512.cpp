// Quantised weights times quantised activations with AVX-512 VNNI.
//
// Three shapes, one order of summation. All work on integer sums of 32 products, which are exact,
// and add them up in floats group after group, one lane per weight row. An unpacked weight meets
// the high and the low byte of an activation.
//   - lanes: sixteen weight rows, unpacked in registers, against up to three activation rows. The
//     shape for decoding.
//   - rows: the same for Q8_0, whose bytes would all have to be transposed: lanes run along the
//     row, eight rows together, and a tree of shuffles turns eight vectors of partial sums into one
//     vector of sums.
//   - tile: sixteen weight rows are unpacked once into a small buffer and meet many activation
//     rows. The shape for prefill.
#include <type_traits>

#include "engine/cpu/blocks_avx512.h"
#include "engine/cpu/kernels_avx512.h"

namespace ds4::cpu {
namespace {

constexpr std::uint32_t kMaxFew = 3;      // activation rows that do without a tile
constexpr std::uint32_t kTileCols = 512;  // unpacked at a time, so that a tile stays in L1
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

/// Two groups of eight rows, or one at the end of an odd row.
template <int n>
DS4_INLINE void add_two_groups(const Rows8& rows, std::size_t a, std::size_t b, int groups,
                               const std::int8_t* const (&q)[n], const GroupInfo* const (&info)[n],
                               __m256 (&totals)[n]) {
  float scale[2 * 8];
  Q8_0::scales(rows, a, b, scale, nullptr, 8);
  __m512i weights[8];
  DS4_UNROLL
  for (int r = 0; r < 8; ++r) weights[r] = Q8_0::row(rows.row[r] + a, rows.row[r] + b);
  DS4_UNROLL
  for (int i = 0; i < n; ++i) {
    const std::int8_t* second = q[i] + (groups == 2 ? kGroupBytes : 0);
    const __m512i high = join(load_256(q[i]), load_256(second));
    const __m512i low = join(load_256(q[i] + kGroup), load_256(second + kGroup));
    __m512i dots[8];
    DS4_UNROLL
    for (int r = 0; r < 8; ++r) {
      dots[r] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights[r], high);
      dots[r] = _mm512_dpbusd_epi32(times_high_unit(dots[r]), weights[r], low);
    }
    const __m512i sums = sum_rows(dots);
    totals[i] =
        add_group<Q8_0>(totals[i], _mm512_castsi512_si256(sums), info[i][0], scale, nullptr);
    if (groups == 2) {
      totals[i] = add_group<Q8_0>(totals[i], _mm512_extracti64x4_epi64(sums, 1), info[i][1],
                                  scale + 8, nullptr);
    }
  }
}

template <int n>
void multiply_rows(const Job& job) {
  using F = Q8_0;
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
      DS4_UNROLL
      for (int r = 0; r < 8; ++r) prefetch_step<F>(rows.row[r] + offset + 8 * job.row_bytes);
      add_two_groups<n>(rows, offset, offset + kSecondBlock<F>, 2, q, info, totals);
      DS4_UNROLL
      for (int i = 0; i < n; ++i) q[i] += 2 * kGroupBytes, info[i] += 2;
    }
    if (col < job.cols) add_two_groups<n>(rows, offset, offset, 1, q, info, totals);
    const std::uint32_t left = job.rows - row;
    const auto mask = static_cast<__mmask8>(left >= 8 ? 0xFF : (1u << left) - 1);
    for (std::uint32_t i = 0; i < n; ++i) {
      _mm256_mask_storeu_ps(job.y + i * job.y_stride + row, mask, totals[i]);
    }
  }
}

/// Adds one group to the totals of sixteen rows; weights(k) are bytes 4k..4k+3 of the rows.
template <class F, int n, class Weights>
DS4_INLINE void add_lanes(const Weights& weights, const std::int8_t* const (&q)[n],
                          const GroupInfo* const (&info)[n], const float* scale, const float* min,
                          __m512 (&totals)[n]) {
  const auto four = [&](int i, int k) __attribute__((always_inline)) {
    std::int32_t bytes;
    __builtin_memcpy(&bytes, q[i] + 4 * k, sizeof bytes);
    return _mm512_set1_epi32(bytes);
  };
  __m512i high[n], sums[n];
  DS4_UNROLL
  for (int i = 0; i < n; ++i) {
    high[i] = _mm512_setzero_si512();
    sums[i] = F::kBias == 0 ? _mm512_setzero_si512() : _mm512_set1_epi32(-F::kBias * info[i]->sum);
  }
  DS4_UNROLL
  for (int k = 0; k < 8; ++k) {
    const __m512i w = weights(k);
    DS4_UNROLL
    for (int i = 0; i < n; ++i) {
      high[i] = _mm512_dpbusd_epi32(high[i], w, four(i, k));
      sums[i] = _mm512_dpbusd_epi32(sums[i], w, four(i, k + 8));
    }
  }
  DS4_UNROLL
  for (int i = 0; i < n; ++i) {
    sums[i] = _mm512_add_epi32(sums[i], times_high_unit(high[i]));
    const __m512 factor = _mm512_mul_ps(_mm512_load_ps(scale), _mm512_set1_ps(info[i]->scale));
    totals[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i]), factor, totals[i]);
    if constexpr (F::kMins == 1) {
      totals[i] =
          _mm512_fnmadd_ps(_mm512_load_ps(min), _mm512_set1_ps(info[i]->scaled_sum), totals[i]);
    } else if constexpr (F::kMins == 2) {
      totals[i] =
          _mm512_fnmadd_ps(_mm512_load_ps(min), _mm512_set1_ps(info[i]->scaled_half[0]), totals[i]);
      totals[i] = _mm512_fnmadd_ps(_mm512_load_ps(min + 16),
                                   _mm512_set1_ps(info[i]->scaled_half[1]), totals[i]);
    }
  }
}

/// Calls use(group of the step, its eight vectors of weights) for the first `groups` groups.
template <class F, class Use>
DS4_INLINE void for_each_group(const F& format, const typename F::Step& step, int groups,
                               const Use& use) {
  for (int i = 0; i * F::kInner < groups; ++i) {
    const auto one = [&]<int j>() __attribute__((always_inline)) {
      __m512i w[8];
      format.template group<j>(step, i, w);
      use(i * F::kInner + j, w);
    };
    one.template operator()<0>();
    if constexpr (F::kInner > 1) one.template operator()<1>();
    if constexpr (F::kInner > 2) one.template operator()<2>(), one.template operator()<3>();
  }
}

DS4_INLINE Rows16 sixteen_rows_at(const Job& job, std::uint32_t first) {
  return {rows_at(job, first), rows_at(job, first + 8)};
}
DS4_INLINE __mmask16 lane_mask(std::uint32_t left) {
  return static_cast<__mmask16>(left >= 16 ? 0xFFFF : (1u << left) - 1);
}

template <class F, int n>
void multiply_lanes(const Job& job) {
  const F format;
  alignas(64) float scale[kGroups<F> * 16];
  alignas(64) float min[F::kMins == 0 ? 1 : F::kMins * kGroups<F> * 16];
  for (std::uint32_t row = 0; row < job.rows; row += 16) {
    const Rows16 rows = sixteen_rows_at(job, row);
    const std::int8_t* q[n];
    const GroupInfo* info[n];
    __m512 totals[n];
    DS4_UNROLL
    for (int i = 0; i < n; ++i) {
      q[i] = record_of(job, static_cast<std::uint32_t>(i));
      info[i] = info_of(q[i], job.cols);
      totals[i] = _mm512_setzero_ps();
    }
    std::size_t offset = 0;
    for (std::uint32_t col = 0; col < job.cols; col += kStepValues<F>, offset += kStepBytes<F>) {
      DS4_UNROLL
      for (int r = 0; r < 16; ++r) prefetch_step<F>(rows.row(r) + offset + 16 * job.row_bytes);
      const bool is_whole = col + kStepValues<F> <= job.cols;
      typename F::Step step;
      F::load(rows, offset, is_whole ? offset + kSecondBlock<F> : offset, step, scale, min);
      for_each_group(
          format, step, is_whole ? kGroups<F> : 1,
          [&](int g, const __m512i(&w)[8]) __attribute__((always_inline)) {
            add_lanes<F, n>([&](int k) { return w[k]; }, q, info, scale + 16 * g,
                            min + 16 * F::kMins * g, totals);
            DS4_UNROLL
            for (int i = 0; i < n; ++i) q[i] += kGroupBytes, ++info[i];
          });
    }
    const __mmask16 mask = lane_mask(job.rows - row);
    for (std::uint32_t i = 0; i < n; ++i)
      _mm512_mask_storeu_ps(job.y + i * job.y_stride + row, mask, totals[i]);
  }
}

/// Sixteen weight rows, some columns: dword 16 * k + r holds bytes 4k..4k+3 of row r.
template <class F>
struct Tile {
  alignas(64) std::uint32_t weights[kTileCols / 4 * 16];
  alignas(64) float scale[kTileGroups * 16];
  alignas(64) float min[F::kMins == 0 ? 1 : F::kMins * kTileGroups * 16];
};

/// Unpacks columns [first, first + count).
template <class F>
void unpack_tile(const F& format, const Rows16& rows, std::uint32_t first, std::uint32_t count,
                 Tile<F>& tile) {
  std::size_t a = first / F::kBlockValues * std::size_t{F::kBlockBytes};
  for (std::uint32_t group = 0; group < count / kGroup; group += kGroups<F>, a += kStepBytes<F>) {
    const bool is_whole = group + kGroups<F> <= count / kGroup;
    typename F::Step step;
    F::load(rows, a, is_whole ? a + kSecondBlock<F> : a, step, tile.scale + group * 16,
            tile.min + F::kMins * group * 16);
    std::uint32_t* out = tile.weights + group * 8 * 16;
    for_each_group(
        format, step,
        is_whole ? kGroups<F> : 1, [&](int g, const __m512i(&w)[8]) __attribute__((always_inline)) {
          DS4_UNROLL
          for (int k = 0; k < 8; ++k) _mm512_store_si512(out + (g * 8 + k) * 16, w[k]);
        });
  }
}

/// One tile against activation rows [i, i + n); totals wait in y between two stretches of columns.
template <class F, int n>
void tile_rows(const Job& job, const Tile<F>& tile, std::uint32_t row, std::uint32_t i,
               std::uint32_t first_col, std::uint32_t count, __mmask16 mask) {
  const std::int8_t* q[n];
  const GroupInfo* info[n];
  __m512 totals[n];
  DS4_UNROLL
  for (int k = 0; k < n; ++k) {
    const std::uint32_t x = i + static_cast<std::uint32_t>(k);
    q[k] = record_of(job, x);
    info[k] = info_of(q[k], job.cols) + first_col / kGroup;
    q[k] += first_col / kGroup * kGroupBytes;
    totals[k] = first_col == 0 ? _mm512_setzero_ps()
                               : _mm512_maskz_loadu_ps(mask, job.y + x * job.y_stride + row);
  }
  for (std::uint32_t group = 0; group < count / kGroup; ++group) {
    const std::uint32_t* weights = tile.weights + group * 8 * 16;
    add_lanes<F, n>([&](int k) { return _mm512_load_si512(weights + 16 * k); }, q, info,
                    tile.scale + group * 16, tile.min + F::kMins * group * 16, totals);
    DS4_UNROLL
    for (int k = 0; k < n; ++k) q[k] += kGroupBytes, ++info[k];
  }
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
    const Rows16 rows = sixteen_rows_at(job, row);
    const __mmask16 mask = lane_mask(job.rows - row);
    for (std::uint32_t col = 0; col < job.cols; col += kTileCols) {
      const std::uint32_t count = job.cols - col < kTileCols ? job.cols - col : kTileCols;
      unpack_tile<F>(format, rows, col, count, tile);
      std::uint32_t i = 0;
      for (; i + 8 <= job.n; i += 8) tile_rows<F, 8>(job, tile, row, i, col, count, mask);
      for (; i + 4 <= job.n; i += 4) tile_rows<F, 4>(job, tile, row, i, col, count, mask);
      for (; i + 2 <= job.n; i += 2) tile_rows<F, 2>(job, tile, row, i, col, count, mask);
      for (; i < job.n; ++i) tile_rows<F, 1>(job, tile, row, i, col, count, mask);
    }
  }
}

template <class F, int n>
void multiply_few(const Job& job) {
  if constexpr (std::is_same_v<F, Q8_0>) {
    multiply_rows<n>(job);
  } else {
    multiply_lanes<F, n>(job);
  }
}

template <class F>
void multiply(const Job& job) {
  switch (job.n) {
    case 0:
      return;
    case 1:
      return multiply_few<F, 1>(job);
    case 2:
      return multiply_few<F, 2>(job);
    case kMaxFew:
      return multiply_few<F, 3>(job);
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
