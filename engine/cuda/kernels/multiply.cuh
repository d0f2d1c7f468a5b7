#pragma once
// Sixteen rows of weights times a few rows of activations, by one warp: what every product does
// with a unit that lies in the ring (unit_ring.cuh). The matrix instruction multiplies the weights
// by all activation rows at hand, as integers or as halves, which is a matter of the weights'
// format.
//
// Columns are cut into segments of kSegment, each summed by itself and by one warp; whoever calls
// adds the segments up in order. That order, and so a result's bits, depends on the number of
// columns alone.
#include "engine/cuda/kernels/integer_formats.cuh"
#include "engine/cuda/kernels/unit_ring.cuh"

namespace ds4::cuda {

/// Two rows of a unit in the ring: g and g + 8.
struct RowPair {
  const std::uint8_t *upper, *lower;
};

/// c += a * b for 16x32 by 32x8 bytes; places as in the instruction for halves, four bytes each.
__device__ __forceinline__ void multiply_bytes(int (&c)[4], std::uint32_t a0, std::uint32_t a1,
                                               std::uint32_t a2, std::uint32_t a3, std::uint32_t b0,
                                               std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// Rows of activations, in the forms that the weights they meet ask for.
struct Activations {
  const __half* halves = nullptr;
  std::uint32_t half_stride = 0;
  QuantisedRows integers;
};

// A tile of any kind: enter() says which rows of activations, multiply() takes a segment's units in
// order, and store() puts its sums to [kInputs][kTileRows] floats.

/// Up to 4 * NQ rows of integers. Column 2j of an instruction is row j's high plane and column
/// 2j + 1 its low plane, so that lane t finds both results of row t next to one another.
template <class F, int NQ, class Vectors>
class IntegerTile {
 public:
  static constexpr std::uint32_t kInputs = 4 * NQ;

  __device__ explicit IntegerTile(const Vectors* vectors) : vectors_(vectors) {}

  /// row_of(i): where input i lies, i < kInputs.
  template <typename RowOf>
  __device__ void enter(const Activations& x, const RowOf& row_of) {
    const bool high = threadIdx.x / 4 % 2 == 0;
    plane_ = (high ? x.integers.hi : x.integers.lo) + 8 * (threadIdx.x % 4);
    scale_ = x.integers.scale;
    if constexpr (F::kMinimums) {
      sum_plane_ = (high ? x.integers.sum_hi : x.integers.sum_lo) + 4 * (threadIdx.x % 4);
      sum_scale_ = x.integers.sum_scale;
    }
    const std::uint32_t chunks = x.integers.stride / kQuantColumns;
#pragma unroll
    for (int i = 0; i < NQ; ++i) {
      operand_row_[i] = row_of(4 * i + threadIdx.x / 8 % 4) * chunks;
      result_row_[i] = row_of(4 * i + threadIdx.x % 4) * chunks;
    }
  }

  __device__ __forceinline__ void multiply(const RowPair& rows, std::uint32_t column,
                                           std::uint32_t cols) {
    constexpr std::uint32_t kBlock = F::kMinimums ? kSumBlockColumns : 128;
#pragma unroll 1
    for (std::uint32_t at = 0; at < cols; at += kBlock) {
      if (cols - at >= kBlock) {
#pragma unroll
        for (std::uint32_t chunk = 0; chunk < kBlock / 32; ++chunk)
          multiply_chunk(rows, at / 32 + chunk, column / 32);
      } else {
#pragma unroll 1
        for (std::uint32_t chunk = 0; chunk < (cols - at) / 32; ++chunk)
          multiply_chunk(rows, at / 32 + chunk, column / 32);
      }
      if constexpr (F::kMinimums) subtract_minimums(rows, at / kBlock, column / kBlock);
    }
  }
  __device__ void store(float* sums) {
    const std::uint32_t g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < NQ; ++i) {
      sums[(4 * i + t) * kTileRows + g] = acc_[i][0];
      sums[(4 * i + t) * kTileRows + g + 8] = acc_[i][1];
      acc_[i][0] = acc_[i][1] = 0;
    }
  }

 private:
  __device__ __forceinline__ void multiply_chunk(const RowPair& rows, std::uint32_t chunk,
                                                 std::uint32_t first_chunk) {
    const std::uint32_t t = threadIdx.x % 4;
    const uint2 u = F::lane_weights(rows.upper, chunk, t, vectors_);
    const uint2 l = F::lane_weights(rows.lower, chunk, t, vectors_);
    const float upper_scale = F::scale(rows.upper, chunk),
                lower_scale = F::scale(rows.lower, chunk);
#pragma unroll
    for (int i = 0; i < NQ; ++i) {
      const std::size_t at = operand_row_[i] + first_chunk + chunk;
      const uint2 b = *reinterpret_cast<const uint2*>(plane_ + kQuantColumns * at);
      int c[4] = {};
      multiply_bytes(c, u.x, l.x, u.y, l.y, b.x, b.y);
      const float x_scale = scale_[result_row_[i] + first_chunk + chunk];
      acc_[i][0] = add_block(acc_[i][0], plane_sum(c[0], c[1]), upper_scale, x_scale);
      acc_[i][1] = add_block(acc_[i][1], plane_sum(c[2], c[3]), lower_scale, x_scale);
    }
  }
  __device__ __forceinline__ void subtract_minimums(const RowPair& rows, std::uint32_t block,
                                                    std::uint32_t first_block) {
    constexpr std::uint32_t kChunks = kSumBlockColumns / kQuantColumns;
    constexpr std::uint32_t kSums = kSumBlockColumns / kSumColumns;
    const std::uint32_t t = threadIdx.x % 4;
    const std::uint32_t u = F::minimums(rows.upper, block, t),
                        l = F::minimums(rows.lower, block, t);
    const float upper_min = F::dmin(rows.upper, block), lower_min = F::dmin(rows.lower, block);
#pragma unroll
    for (int i = 0; i < NQ; ++i) {
      const std::size_t at = operand_row_[i] / kChunks + first_block + block;
      const auto b = *reinterpret_cast<const std::uint32_t*>(sum_plane_ + kSums * at);
      int c[4] = {};
      multiply_bytes(c, u, l, 0, 0, b, 0);
      const float scale = sum_scale_[result_row_[i] / kChunks + first_block + block];
      acc_[i][0] = add_minimums(acc_[i][0], plane_sum(c[0], c[1]), upper_min, scale);
      acc_[i][1] = add_minimums(acc_[i][1], plane_sum(c[2], c[3]), lower_min, scale);
    }
  }

  const Vectors* vectors_;
  const std::int8_t *plane_, *sum_plane_;
  const float *scale_, *sum_scale_;
  std::uint32_t operand_row_[NQ], result_row_[NQ];  // in chunks of 32 columns
  float acc_[NQ][2] = {};
};

/// One row of integers, for formats whose unpacking is the work: see integer_formats.cuh. Columns
/// 2j and 2j + 1 of four instructions belong to group j of four groups of 32 columns, because only
/// lane j's share of the activations is not zero there: so lane t finds the results of group t.
/// They are added up in the order of the groups, like everybody's, by way of shared memory.
template <class F, class Vectors>
class OwnTile {
 public:
  static constexpr std::uint32_t kInputs = 1;
  static constexpr std::uint32_t kGroups = kSumBlockColumns / kQuantColumns;  // added up together
  static constexpr std::uint32_t kTermPitch = kTileRows + 4;                  // no bank met twice
  /// Of a group and a row: the factors of add_block(); behind the groups those of add_minimums().
  using Terms = float2[kGroups + 1][kTermPitch];

  __device__ OwnTile(const Vectors* vectors, Terms* terms) : vectors_(vectors), terms_(*terms) {}

  template <typename RowOf>
  __device__ void enter(const Activations& x, const RowOf& row_of) {
    const std::uint32_t g = threadIdx.x % kWarp / 4;
    row_ = row_of(0) * (x.integers.stride / kSumBlockColumns);
    plane_ = (g % 2 == 0 ? x.integers.hi : x.integers.lo) + 32 * (threadIdx.x % 4);
    scale_ = x.integers.scale + threadIdx.x % 4;
    if constexpr (F::kMinimums) {
      sum_plane_ = (g == 0 ? x.integers.sum_hi : x.integers.sum_lo) + 4 * (threadIdx.x % 4);
      sum_scale_ = x.integers.sum_scale;
    }
  }

  /// Columns are a multiple of 256.
  __device__ __forceinline__ void multiply(const RowPair& rows, std::uint32_t column,
                                           std::uint32_t cols) {
#pragma unroll 1
    for (std::uint32_t at = 0; at < cols; at += kSumBlockColumns)
      multiply_block(rows, at / kSumBlockColumns, (column + at) / kSumBlockColumns);
  }
  __device__ void store(float* sums) {
    if (threadIdx.x % kWarp < kTileRows) sums[threadIdx.x % kWarp] = acc_;
    acc_ = 0;
  }

 private:
  /// Block `block` of the unit, which is `x_block` of the activations.
  __device__ __forceinline__ void multiply_block(const RowPair& rows, std::uint32_t block,
                                                 std::uint32_t x_block) {
    const std::size_t x = row_ + x_block;
    multiply_quad(rows, 2 * block, 2 * x, 0);
    multiply_quad(rows, 2 * block + 1, 2 * x + 1, 4);
    if constexpr (F::kMinimums) multiply_minimums(rows, block, x);
    __syncwarp();
    add_up(x);
    __syncwarp();
  }
  __device__ __forceinline__ void multiply_quad(const RowPair& rows, std::uint32_t quad,
                                                std::size_t x_quad, std::uint32_t first_term) {
    const std::uint32_t g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
    uint4 b[2] = {};
    if (g / 2 == t) {
      const auto* from = reinterpret_cast<const uint4*>(plane_ + 128 * x_quad);
      b[0] = from[0], b[1] = from[1];
    }
    const float x_scale = scale_[4 * x_quad];
    uint2 u[4], l[4];
    const float upper_scale = F::own_weights(rows.upper, quad, t, vectors_, u);
    const float lower_scale = F::own_weights(rows.lower, quad, t, vectors_, l);
    int c[4] = {};
    multiply_bytes(c, u[0].x, l[0].x, u[0].y, l[0].y, b[0].x, b[0].y);
    multiply_bytes(c, u[1].x, l[1].x, u[1].y, l[1].y, b[0].z, b[0].w);
    multiply_bytes(c, u[2].x, l[2].x, u[2].y, l[2].y, b[1].x, b[1].y);
    multiply_bytes(c, u[3].x, l[3].x, u[3].y, l[3].y, b[1].z, b[1].w);
    float2(&terms)[kTermPitch] = terms_[first_term + t];
    terms[g] = make_float2(plane_sum(c[0], c[1]), __fmul_rn(upper_scale, x_scale));
    terms[g + 8] = make_float2(plane_sum(c[2], c[3]), __fmul_rn(lower_scale, x_scale));
  }
  __device__ __forceinline__ void multiply_minimums(const RowPair& rows, std::uint32_t block,
                                                    std::size_t x_block) {
    constexpr std::uint32_t kSums = kSumBlockColumns / kSumColumns;
    const std::uint32_t g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
    const std::uint32_t b =
        g < 2 ? *reinterpret_cast<const std::uint32_t*>(sum_plane_ + kSums * x_block) : 0;
    int c[4] = {};
    multiply_bytes(c, F::minimums(rows.upper, block, t), F::minimums(rows.lower, block, t), 0, 0, b,
                   0);
    if (t != 0) return;
    terms_[kGroups][g] = make_float2(plane_sum(c[0], c[1]), F::dmin(rows.upper, block));
    terms_[kGroups][g + 8] = make_float2(plane_sum(c[2], c[3]), F::dmin(rows.lower, block));
  }
  /// Lane r adds up row r.
  __device__ __forceinline__ void add_up(std::size_t x_block) {
    const std::uint32_t r = threadIdx.x % kTileRows;
#pragma unroll
    for (std::uint32_t group = 0; group < kGroups; ++group)
      acc_ = __fmaf_rn(terms_[group][r].x, terms_[group][r].y, acc_);  // add_block()
    if constexpr (F::kMinimums)
      acc_ = add_minimums(acc_, terms_[kGroups][r].x, terms_[kGroups][r].y, sum_scale_[x_block]);
  }

  const Vectors* vectors_;
  Terms& terms_;
  std::uint32_t row_;  // in blocks of 256 columns
  const std::int8_t *plane_, *sum_plane_;
  const float *scale_, *sum_scale_;
  float acc_ = 0;
};

/// Up to 4 * NQ rows of halves, for formats whose weights are no small integers.
template <class F, TensorType kType, int NQ>
class HalfTile {
 public:
  static constexpr std::uint32_t kInputs = 4 * NQ;

  template <typename RowOf>
  __device__ void enter(const Activations& x, const RowOf& row_of) {
    x_ = x.halves + 8 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < NT; ++i) row_[i] = row_of(8 * i + threadIdx.x % kWarp / 4) * x.half_stride;
  }

  __device__ __forceinline__ void multiply(const RowPair& rows, std::uint32_t column,
                                           std::uint32_t cols) {
    constexpr std::uint32_t kUnit = unit_format(kType).cols;
    if (cols == kUnit) {
#pragma unroll
      for (std::uint32_t chunk = 0; chunk < kUnit / 32; ++chunk)
        multiply_chunk(rows, chunk, column);
    } else {
#pragma unroll 1
      for (std::uint32_t chunk = 0; chunk < cols / 32; ++chunk) multiply_chunk(rows, chunk, column);
    }
  }
  __device__ void store(float* sums) {
    const std::uint32_t g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < NT; ++i) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const std::uint32_t input = 8 * i + 2 * t + c % 2;
        if (input < kInputs) sums[input * kTileRows + g + 8 * (c / 2)] = acc_[i][c];
        acc_[i][c] = 0;
      }
    }
  }

 private:
  __device__ __forceinline__ void multiply_chunk(const RowPair& rows, std::uint32_t chunk,
                                                 std::uint32_t column) {
    const std::uint32_t t = threadIdx.x % 4;
    uint4 b[NT];
#pragma unroll
    for (int i = 0; i < NT; ++i)
      b[i] = *reinterpret_cast<const uint4*>(x_ + std::size_t{row_[i]} + column + 32 * chunk);
    Half8 u, l;
    F::decode8(rows.upper, chunk, t, nullptr, u);
    F::decode8(rows.lower, chunk, t, nullptr, l);
    const std::uint32_t a0[4] = {u[0], l[0], u[1], l[1]};
    const std::uint32_t a1[4] = {u[2], l[2], u[3], l[3]};
#pragma unroll
    for (int i = 0; i < NT; ++i) multiply_add(acc_[i], a0, b[i].x, b[i].y);
#pragma unroll
    for (int i = 0; i < NT; ++i) multiply_add(acc_[i], a1, b[i].z, b[i].w);
  }

  static constexpr int NT = (NQ + 1) / 2;

  const __half* x_;
  std::uint32_t row_[NT];
  float acc_[NT][4] = {};
};

/// One segment of one tile, and where its sums go.
struct TileJob {
  const std::uint8_t* first = nullptr;  // the tile's first byte
  std::uint32_t segment = 0;
  float* sums = nullptr;
};

/// Runs this warp's jobs, job_at(0) .. job_at(count - 1), on tiles of one shape. Copies of weights
/// begin before `ready` is called, behind which activations may be read.
template <TensorType kType, int kStages, class Tile, typename JobAt, typename Ready>
__device__ __forceinline__ void run_jobs(Tile& tile, std::uint32_t count, const JobAt& job_at,
                                         const TileShape& shape, std::uint32_t cols,
                                         std::uint8_t* ring, const Ready& ready) {
  constexpr UnitFormat kFormat = unit_format(kType);
  constexpr std::uint32_t kUnits = kSegment / kFormat.cols;
  const std::uint32_t g = threadIdx.x % kWarp / 4, units = kUnits * count;
  const CopyLane lane(shape);
  const std::uint32_t lane_ring =
      shared_address(ring) + threadIdx.x % kWarp / 8 * kFormat.pitch + 16 * (threadIdx.x % 8);
  const std::uint32_t upper = shape.offset(g), lower = shape.offset(g + 8);
  const auto column_of = [&](const TileJob& job, std::uint32_t unit) {
    return job.segment * kSegment + unit % kUnits * kFormat.cols;
  };
  const auto width = [&](std::uint32_t column) {
    return column >= cols ? 0 : min(cols - column, kFormat.cols);
  };
  // Stages are used in turns; both ends count on their own.
  std::uint32_t next_stage = 0, stage_offset = 0;
  const auto turn = [](std::uint32_t offset) {
    return offset == (kStages - 1) * kStageBytes ? 0 : offset + kStageBytes;
  };
  const auto start = [&](std::uint32_t unit) {
    if (unit < units) {
      const TileJob job = job_at(unit / kUnits);
      const std::uint32_t column = column_of(job, unit);
      if (width(column) != 0)
        start_copy<kType>(lane_ring + next_stage, job.first + column / kFormat.cols * kFormat.bytes,
                          lane, width(column) * kFormat.bytes / kFormat.cols);
    }
    next_stage = turn(next_stage);
    commit_copies();
  };
#pragma unroll 1
  for (int stage = 0; stage < kStages - 1; ++stage) start(stage);
  ready();
#pragma unroll 1
  for (std::uint32_t unit = 0; unit < units; ++unit) {
    start(unit + kStages - 1);
    wait_copies<kStages - 1>();
    __syncwarp();
    const TileJob job = job_at(unit / kUnits);
    const std::uint32_t column = column_of(job, unit);
    const std::uint8_t* stage = ring + stage_offset;
    stage_offset = turn(stage_offset);
    const std::uint32_t from =
        static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(job.first)) +
        column / kFormat.cols * kFormat.bytes;
    if (width(column) != 0)
      tile.multiply({stage + g * kFormat.pitch + ((from + upper) & 15),
                     stage + (g + 8) * kFormat.pitch + ((from + lower) & 15)},
                    column, width(column));
    if (unit % kUnits == kUnits - 1) tile.store(job.sums);
    __syncwarp();
  }
  wait_copies<0>();
}

/// The segments' sums of one value, added up in order; `pitch` floats from one to the next.
__device__ __forceinline__ float add_segments(const float* sums, std::uint32_t segments,
                                              std::uint32_t pitch) {
  float total = 0;
  for (std::uint32_t s = 0; s < segments; ++s) total = __fadd_rn(total, sums[s * pitch]);
  return total;
}

}  // namespace ds4::cuda
