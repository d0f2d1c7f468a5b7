#pragma once
// Sixteen rows of weights times a few rows of activations, by one warp: the inner loop of every
// product. Weights pass once through the warp's own ring in shared memory and become halves; the
// matrix instruction multiplies them by 8 * NT rows of activations.
//
// Columns are cut into segments of kSegment, each summed by itself and by one warp; whoever calls
// adds the segments up in order. That order, and so a result's bits, depends on the number of
// columns alone.
#include "engine/cuda/kernels/formats.cuh"

namespace ds4::cuda {

inline constexpr std::uint32_t kSegment = 512;
inline constexpr std::uint32_t kTileRows = 16;
inline constexpr std::uint32_t kTileWarps = 8;     // of a block
inline constexpr std::uint32_t kRingBytes = 7680;  // of a warp

__host__ __device__ constexpr std::uint32_t segments_of(std::uint32_t cols) {
  return (cols + kSegment - 1) / kSegment;
}

/// Sixteen rows of a matrix, or as many as are left.
struct TileShape {
  std::uint32_t row_bytes = 0;
  std::uint32_t count = 0;  // 1..16; rows behind them repeat the last

  __device__ std::uint32_t offset(std::uint32_t r) const {
    return (r < count ? r : count - 1) * row_bytes;
  }
};

/// One segment of one tile, and where its sums go: [8 * NT][kTileRows] floats.
struct TileJob {
  const std::uint8_t* first = nullptr;  // the tile's first byte
  std::uint32_t segment = 0;
  float* sums = nullptr;
};

/// The activations of a lane: rows g, g + 8, ... of the call, from column 8t on; null if absent.
template <int NT>
struct LaneInputs {
  const __half* x[NT];

  __device__ uint4 load(int i, std::uint32_t column) const {
    if (x[i] == nullptr) return make_uint4(0, 0, 0, 0);
    return *reinterpret_cast<const uint4*>(x[i] + column);
  }
};

namespace tile {

template <class Format>
struct Ring {
  static constexpr std::uint32_t kStride = (Format::kMostBytes + 15 + 4 + 15) / 16 * 16;
  static constexpr std::uint32_t kStageBytes = kTileRows * kStride;
  static constexpr int kStages = kRingBytes / kStageBytes < 4 ? kRingBytes / kStageBytes : 4;
  static_assert(kStages >= 2 && kSegment % Format::kUnit == 0);
  static constexpr std::uint32_t kUnits = kSegment / Format::kUnit;  // of a segment
};

/// What a lane copies of a tile: eight lanes share a row, and each has four rows.
struct CopyLane {
  std::uint32_t offsets[4];  // of the lane's rows
  bool aligned;              // every row begins at a multiple of 16 bytes

  __device__ explicit CopyLane(const TileShape& shape) : aligned(shape.row_bytes % 16 == 0) {
#pragma unroll
    for (std::uint32_t i = 0; i < 4; ++i)
      offsets[i] = shape.offset(threadIdx.x % kWarp / 8 + 4 * i);
  }
};

/// Starts the copy of columns [column, column + cols) to `stage`, the place in shared memory of the
/// lane's first piece.
template <class Format>
__device__ __forceinline__ void start_copy(std::uint32_t stage, const std::uint8_t* first,
                                           const CopyLane& lane, std::uint32_t column,
                                           std::uint32_t cols) {
  constexpr std::uint32_t kRounds = (Format::kMostBytes + 15 + 127) / 128;
  const std::uint32_t piece = 16 * (threadIdx.x % 8), bytes = Format::bytes(cols);
  first += Format::bytes(column);
  const auto copy_row = [&](std::uint32_t i, const std::uint8_t* from, std::uint32_t end) {
#pragma unroll
    for (std::uint32_t round = 0; round < kRounds; ++round)
      if (piece + 128 * round < end)
        copy16_async(stage + 4 * i * Ring<Format>::kStride + 128 * round, from + 128 * round);
  };
  if (lane.aligned) {
    const std::uint32_t skew = reinterpret_cast<std::uintptr_t>(first) & 15;
    first = first - skew + piece;
#pragma unroll
    for (std::uint32_t i = 0; i < 4; ++i) copy_row(i, first + lane.offsets[i], bytes + skew);
  } else {
#pragma unroll 1
    for (std::uint32_t i = 0; i < 4; ++i) {
      const std::uint8_t* from =
          first + (i == 0
                       ? lane.offsets[0]
                       : (i == 1 ? lane.offsets[1] : (i == 2 ? lane.offsets[2] : lane.offsets[3])));
      const std::uint32_t skew = reinterpret_cast<std::uintptr_t>(from) & 15;
      copy_row(i, from - skew + piece, bytes + skew);
    }
  }
}

template <class Format, int NT>
__device__ __forceinline__ void multiply_chunk(float (&acc)[NT][4], const std::uint8_t* upper,
                                               const std::uint8_t* lower, std::uint32_t chunk,
                                               const LaneInputs<NT>& inputs, std::uint32_t column,
                                               const Iq2Table* table) {
  uint4 b[NT];
#pragma unroll
  for (int i = 0; i < NT; ++i) b[i] = inputs.load(i, column);
  Half8 u, l;
  const std::uint32_t t = threadIdx.x % 4;
  Format::decode8(upper, chunk, t, table, u);
  Format::decode8(lower, chunk, t, table, l);
  const std::uint32_t a0[4] = {u[0], l[0], u[1], l[1]};
  const std::uint32_t a1[4] = {u[2], l[2], u[3], l[3]};
#pragma unroll
  for (int i = 0; i < NT; ++i) multiply_add(acc[i], a0, b[i].x, b[i].y);
#pragma unroll
  for (int i = 0; i < NT; ++i) multiply_add(acc[i], a1, b[i].z, b[i].w);
}

/// The columns of a unit, which are a multiple of 32.
template <class Format, int NT>
__device__ __forceinline__ void multiply_unit(float (&acc)[NT][4], const std::uint8_t* upper,
                                              const std::uint8_t* lower, std::uint32_t column,
                                              std::uint32_t cols, const LaneInputs<NT>& inputs,
                                              const Iq2Table* table) {
  constexpr int kAtOnce = NT >= 8 ? 2 : 4;
  if (cols == Format::kUnit) {
#pragma unroll kAtOnce
    for (std::uint32_t chunk = 0; chunk < Format::kUnit / 32; ++chunk)
      multiply_chunk<Format, NT>(acc, upper, lower, chunk, inputs, column + 32 * chunk, table);
  } else {
#pragma unroll 1
    for (std::uint32_t chunk = 0; chunk < cols / 32; ++chunk)
      multiply_chunk<Format, NT>(acc, upper, lower, chunk, inputs, column + 32 * chunk, table);
  }
}

template <int NT>
__device__ __forceinline__ void store_sums(float (&acc)[NT][4], float* sums) {
  const std::uint32_t lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < NT; ++i) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      sums[(8 * i + 2 * t + c % 2) * kTileRows + g + 8 * (c / 2)] = acc[i][c];
      acc[i][c] = 0;
    }
  }
}

}  // namespace tile

/// Runs this warp's jobs, job_at(0) .. job_at(count - 1), on tiles of one shape. Copies
/// of weights begin before `ready` is called, which returns the activations.
template <class Format, int NT, typename JobAt, typename Ready>
__device__ __forceinline__ void run_jobs(std::uint32_t count, const JobAt& job_at,
                                         const TileShape& shape, std::uint32_t cols,
                                         std::uint8_t* ring, const Iq2Table* table,
                                         const Ready& ready) {
  using Ring = tile::Ring<Format>;
  const std::uint32_t g = threadIdx.x % kWarp / 4;
  const std::uint32_t units = Ring::kUnits * count;
  const tile::CopyLane lane(shape);
  const std::uint32_t lane_ring =
      shared_address(ring) + threadIdx.x % kWarp / 8 * Ring::kStride + 16 * (threadIdx.x % 8);
  const std::uint32_t upper = shape.offset(g), lower = shape.offset(g + 8);
  const auto column_of = [&](const TileJob& job, std::uint32_t unit) {
    return job.segment * kSegment + unit % Ring::kUnits * Format::kUnit;
  };
  const auto width = [&](std::uint32_t column) {
    return column >= cols ? 0 : min(cols - column, Format::kUnit);
  };
  // Stages are used in turns; both ends count on their own.
  std::uint32_t next_stage = 0, stage_offset = 0;
  const auto turn = [](std::uint32_t offset) {
    return offset == (Ring::kStages - 1) * Ring::kStageBytes ? 0 : offset + Ring::kStageBytes;
  };
  const auto start = [&](std::uint32_t unit) {
    if (unit < units) {
      const TileJob job = job_at(unit / Ring::kUnits);
      const std::uint32_t column = column_of(job, unit);
      if (width(column) != 0)
        tile::start_copy<Format>(lane_ring + next_stage, job.first, lane, column, width(column));
    }
    next_stage = turn(next_stage);
    commit_copies();
  };
  float acc[NT][4] = {};
#pragma unroll 1
  for (int stage = 0; stage < Ring::kStages - 1; ++stage) start(stage);
  const LaneInputs<NT> inputs = ready();
#pragma unroll 1
  for (std::uint32_t unit = 0; unit < units; ++unit) {
    start(unit + Ring::kStages - 1);
    wait_copies<Ring::kStages - 1>();
    __syncwarp();
    const TileJob job = job_at(unit / Ring::kUnits);
    const std::uint32_t column = column_of(job, unit);
    const std::uint8_t* stage = ring + stage_offset;
    stage_offset = turn(stage_offset);
    const std::uint32_t from =
        static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(job.first)) +
        Format::bytes(column);
    tile::multiply_unit<Format, NT>(acc, stage + g * Ring::kStride + ((from + upper) & 15),
                                    stage + (g + 8) * Ring::kStride + ((from + lower) & 15), column,
                                    width(column), inputs, table);
    if (unit % Ring::kUnits == Ring::kUnits - 1) tile::store_sums<NT>(acc, job.sums);
    __syncwarp();
  }
  wait_copies<0>();
}

/// The segments' sums of one value, added up in order.
template <int NT>
__device__ __forceinline__ float add_segments(const float* sums, std::uint32_t segments,
                                              std::uint32_t input, std::uint32_t row) {
  float total = 0;
  for (std::uint32_t s = 0; s < segments; ++s)
    total += sums[(s * 8 * NT + input) * kTileRows + row];
  return total;
}

}  // namespace ds4::cuda
