#pragma once
// Weights reach a warp through its own ring in shared memory, a unit of columns of sixteen rows at
// a time.
#include "engine/cuda/kernels/common.cuh"
#include "engine/gguf/tensor_type.h"

namespace ds4::cuda {

inline constexpr std::uint32_t kSegment = 512;      // columns that are summed by themselves
inline constexpr std::uint32_t kTileRows = 16;      // of weights
inline constexpr std::uint32_t kTileWarps = 8;      // of a block
inline constexpr std::uint32_t kStageBytes = 2560;  // of a unit's place in a ring

__host__ __device__ constexpr std::uint32_t segments_of(std::uint32_t cols) {
  return (cols + kSegment - 1) / kSegment;
}

/// Columns that are copied together, their bytes in a row, and a row's bytes in the ring.
struct UnitFormat {
  std::uint32_t cols, bytes, pitch;
};
/// Pitches keep the rows that a warp reads at once in different banks, as far as room allows.
__host__ __device__ constexpr UnitFormat unit_format(TensorType type) {
  switch (type) {
    case TensorType::kF16:
    case TensorType::kBF16:
      return {64, 128, 160};
    case TensorType::kF32:
      return {32, 128, 160};
    case TensorType::kQ8_0:
      return {128, 136, 160};
    case TensorType::kQ4_K:
      return {256, 144, 160};
    case TensorType::kQ2_K:
      return {256, 84, 112};
    case TensorType::kIQ2_XXS:
      return {512, 132, 160};
    case TensorType::kMXFP4:
      return {128, 68, 112};
    default:
      return {0, 0, 0};
  }
}

/// Sixteen rows of a matrix, or all that there are.
struct TileShape {
  std::uint32_t row_bytes = 0;
  std::uint32_t count = 0;  // rows behind them repeat the last

  __device__ std::uint32_t offset(std::uint32_t r) const {
    return (r < count ? r : count - 1) * row_bytes;
  }
};

/// What a lane copies of tiles of a shape: eight lanes share a row, and each has four rows.
struct CopyLane {
  std::uint32_t offsets[4];  // of the lane's rows
  bool aligned;              // every row begins at a multiple of 16 bytes

  __device__ explicit CopyLane(const TileShape& shape) : aligned(shape.row_bytes % 16 == 0) {
#pragma unroll
    for (std::uint32_t i = 0; i < 4; ++i)
      offsets[i] = shape.offset(threadIdx.x % kWarp / 8 + 4 * i);
  }
};

/// Starts the copy of `bytes` from `first` on of each of a tile's rows to `stage`, the place in
/// shared memory of the lane's first piece. Pieces are 16 bytes; a row's bytes keep their place
/// within them.
template <TensorType kType>
__device__ __forceinline__ void start_copy(std::uint32_t stage, const std::uint8_t* first,
                                           const CopyLane& lane, std::uint32_t bytes) {
  constexpr UnitFormat kFormat = unit_format(kType);
  constexpr std::uint32_t kRounds = (kFormat.bytes + 15 + 127) / 128;
  const std::uint32_t piece = 16 * (threadIdx.x % 8);
  const auto copy_row = [&](std::uint32_t i, const std::uint8_t* from, std::uint32_t end) {
#pragma unroll
    for (std::uint32_t round = 0; round < kRounds; ++round)
      if (piece + 128 * round < end)
        copy16_async(stage + 4 * i * kFormat.pitch + 128 * round, from + 128 * round);
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

}  // namespace ds4::cuda
