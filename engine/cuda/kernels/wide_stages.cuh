#pragma once
// Where producers and consumers of wide_products.cu meet, and the producers: what they copy and
// decode. Raw weights come a stage before they are decoded, activations as soon as a stage is
// empty.
#include "engine/cuda/kernels/pipeline.cuh"
#include "engine/cuda/kernels/wide_tiles.cuh"

namespace ds4::cuda::wide {

inline constexpr std::uint32_t kStageCols = 128, kChunks = kStageCols / 32;
inline constexpr std::uint32_t kStages = 2;
inline constexpr std::uint32_t kConsumers = 16, kProducers = 4;  // warps
inline constexpr std::uint32_t kConsumerThreads = kConsumers * kWarp;
inline constexpr std::uint32_t kProducerThreads = kProducers * kWarp;
inline constexpr unsigned kThreads = kConsumerThreads + kProducerThreads;
inline constexpr std::uint32_t kWarpRows = 2 * kPairRows, kWarpInputs = 32;  // of a consumer
inline constexpr std::uint32_t kWarpsDown = kWideRows / kWarpRows;
inline constexpr int kRowFrags = kWarpRows / 16, kInputFrags = kWarpInputs / 8;
inline constexpr std::uint32_t kMostPieces = 9;  // of 16 bytes, of a row's raw weights
inline constexpr std::uint32_t kStagesOfSegment = kSegment / kStageCols;

/// 128 columns of a tile. Bytes lie in pieces of 16, piece p of row r at p ^ (r % 8): rows that are
/// read together then lie in different banks.
struct alignas(128) Stage {
  std::uint8_t weights[kWideRows][kStageCols];
  std::uint8_t hi[kWideInputs][kStageCols];
  std::uint8_t lo[kWideInputs][kStageCols];
  float w_scale[kChunks][kWideRows];  // row r at pair_place(r)
  float x_scale[kChunks][kWideInputs];
  // Of the 256 columns that end with this stage, if the format has minimums.
  std::uint8_t minimums[kWideRows][16];
  std::uint8_t sum_hi[kWideInputs][16];
  std::uint8_t sum_lo[kWideInputs][16];
  float dmin[kWideRows];  // row r at pair_place(r)
  float sum_scale[kWideInputs];
};

struct WideShared {
  Stage stage[kStages];
  float4 totals[kRowFrags * kInputFrags][kConsumerThreads];
  std::uint8_t raw[kStages][kWideRows * kMostPieces * 16];
  SignedVectors<1> vectors;
  PhaseBarrier full[kStages], empty[kStages];
};

__device__ __forceinline__ std::uint32_t swizzle(std::uint32_t row, std::uint32_t piece) {
  return 16 * (piece ^ (row % 8));
}

/// A lane needs what belongs to rows r and r + 8 of 16: they stand next to one another.
__device__ __forceinline__ std::uint32_t pair_place(std::uint32_t row) {
  return (row & ~15u) | (row % 8 * 2) | (row / 8 % 2);
}

template <typename F>
__device__ __forceinline__ void with_integer_format(std::uint32_t type, const F& f) {
  switch (static_cast<TensorType>(type)) {
    case TensorType::kQ8_0:
      return f(IntegerQ8_0{});
    case TensorType::kQ4_K:
      return f(IntegerQ4_K{});
    case TensorType::kQ2_K:
      return f(IntegerQ2_K{});
    case TensorType::kIQ2_XXS:
      return f(IntegerIQ2_XXS{});
    default:
      return;
  }
}

// Producers -----------------------------------------------------------------------------------

/// Where a stage's columns begin in a row, and how many bytes are needed of it: whole blocks, so
/// that formats of 256 columns are read twice. Whatever its place within 16 bytes, a row's part
/// touches each of kPieces pieces, or ends 16 bytes before the last one does.
template <class Format>
struct RawPart {
  static constexpr std::uint32_t kCols = Format::kMinimums || Format::kOwn ? 256 : kStageCols;
  static constexpr std::uint32_t kBytes = Format::kUnit.bytes * kCols / Format::kUnit.cols;
  static constexpr std::uint32_t kPieces = (kBytes + 15) / 16;
  static_assert(kPieces <= kMostPieces && kBytes % 16 != 1);
  __device__ static std::uint32_t offset(std::uint32_t column) { return column / kCols * kBytes; }
};

/// Copies raw weights of a tile: pieces of 16 bytes, row after row; a row's bytes keep their place
/// within 16.
class RawCopy {
 public:
  template <class Tile>
  __device__ void enter(const Tile& tile, std::uint32_t thread) {
    with_integer_format(tile.type, [&](auto format) {
      constexpr std::uint32_t kPieces = RawPart<decltype(format)>::kPieces;
#pragma unroll
      for (std::uint32_t i = 0; i < kPieces; ++i) {
        const std::uint32_t item = thread + kProducerThreads * i;
        offset_[i] = tile.row_offset(item / kPieces) + 16 * (item % kPieces);
      }
    });
  }
  template <class Format, class Tile>
  __device__ __forceinline__ void start(const Tile& tile, std::uint32_t column, std::uint8_t* raw,
                                        std::uint32_t thread) const {
    constexpr std::uint32_t kPieces = RawPart<Format>::kPieces;
    const std::uint32_t offset = RawPart<Format>::offset(column);
    const std::uint32_t to = shared_address(raw) + 16 * thread;
#pragma unroll
    for (std::uint32_t i = 0; i < kPieces; ++i) {
      const std::uint32_t row = (thread + kProducerThreads * i) / kPieces;
      const auto from = reinterpret_cast<std::uintptr_t>(tile.matrix_of(row) + offset + offset_[i]);
      copy16_async(to + 16 * kProducerThreads * i, reinterpret_cast<const void*>(from & ~15ull));
    }
  }

 private:
  std::uint32_t offset_[kMostPieces];
};

template <class Format, class Tile>
__device__ __forceinline__ void decode(const Tile& tile, std::uint32_t column,
                                       const std::uint8_t* raw, const SignedVectors<1>& vectors,
                                       Stage& stage, std::uint32_t thread) {
  using Part = RawPart<Format>;
  const std::uint32_t first_chunk = column % Part::kCols / 32, offset = Part::offset(column);
  const std::uint32_t part = thread % kChunks, chunk = first_chunk + part;
#pragma unroll 2
  for (std::uint32_t row = thread / kChunks; row < kWideRows; row += kProducerThreads / kChunks) {
    const auto matrix =
        static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(tile.matrix_of(row)));
    const std::uint32_t skew = (matrix + tile.row_offset(row) + offset) & 15;
    const std::uint8_t* block = raw + row * (16 * Part::kPieces) + skew;
    uint2 w[4];
#pragma unroll
    for (std::uint32_t t = 0; t < 4; ++t) w[t] = Format::lane_weights(block, chunk, t, &vectors);
    std::uint8_t* to = stage.weights[row];
    *reinterpret_cast<uint4*>(to + swizzle(row, 2 * part)) =
        make_uint4(w[0].x, w[0].y, w[1].x, w[1].y);
    *reinterpret_cast<uint4*>(to + swizzle(row, 2 * part + 1)) =
        make_uint4(w[2].x, w[2].y, w[3].x, w[3].y);
    stage.w_scale[part][pair_place(row)] = Format::scale(block, chunk);
    if constexpr (Format::kMinimums) {
      if (first_chunk == 0) continue;
      *reinterpret_cast<std::uint32_t*>(stage.minimums[row] + 4 * part) =
          Format::minimums(block, 0, part);
      if (part == 0) stage.dmin[pair_place(row)] = Format::dmin(block, 0);
    }
  }
}

/// Copies activations: eight threads a row, and one a row's scales. Rows are addressed by 32 bits.
class InputCopy {
 public:
  template <class Tile>
  __device__ void enter(const Tile& tile, std::uint32_t thread) {
    const std::uint32_t stride = tile.x->stride;
    row_ = thread / 8, piece_ = thread % 8;
    rounds_ = tile.inputs <= row_ ? 0 : (tile.inputs - row_ + kRowsAtOnce - 1) / kRowsAtOnce;
#pragma unroll
    for (std::uint32_t i = 0; i < kRounds; ++i)
      offset_[i] = i < rounds_ ? tile.input_row(row_ + kRowsAtOnce * i) * stride : 0;
    has_row_ = thread < tile.inputs;
    own_ = has_row_ ? tile.input_row(thread) * (stride / kStageCols) : 0;
  }
  /// Stage `s` of the rows.
  __device__ __forceinline__ void start(const QuantisedRows& x, std::uint32_t s, bool sums,
                                        Stage& stage, std::uint32_t thread) const {
    const std::uint32_t begin = s * kStageCols + 16 * piece_;
    const std::int8_t *hi = x.hi + begin, *lo = x.lo + begin;
    const std::uint32_t to_hi = shared_address(stage.hi[row_]) + swizzle(row_, piece_);
    constexpr std::uint32_t kToLo = sizeof stage.hi, kStep = kRowsAtOnce * kStageCols;
#pragma unroll
    for (std::uint32_t i = 0; i < kRounds; ++i) {
      if (i >= rounds_) continue;
      copy16_async(to_hi + kStep * i, hi + offset_[i]);
      copy16_async(to_hi + kStep * i + kToLo, lo + offset_[i]);
    }
    if (!has_row_) return;
    const std::uint32_t own = own_ + s;
    const float* scale = x.scale + std::size_t{own} * kChunks;
#pragma unroll
    for (std::uint32_t c = 0; c < kChunks; ++c) copy4_async(&stage.x_scale[c][thread], scale + c);
    if (!sums) return;
    const std::size_t block = own / 2;
    copy16_async(stage.sum_hi[thread], x.sum_hi + 16 * block);
    copy16_async(stage.sum_lo[thread], x.sum_lo + 16 * block);
    copy4_async(&stage.sum_scale[thread], x.sum_scale + block);
  }

 private:
  static constexpr std::uint32_t kRowsAtOnce = kProducerThreads / 8;
  static constexpr std::uint32_t kRounds = kWideInputs / kRowsAtOnce;
  static_assert(kProducerThreads == kWideInputs);

  std::uint32_t row_, piece_, rounds_, offset_[kRounds];
  bool has_row_;
  std::uint32_t own_;  // stages before the thread's own row
};

template <class Tiles>
__device__ void produce(const typename Tiles::View& tiles, WideShared& shared,
                        std::uint32_t thread) {
  const std::uint32_t stages = tiles.cols() / kStageCols;
  // Raw weights are a stage ahead, and may be in the tile behind.
  std::uint32_t next_index = blockIdx.x, next_stage = 0;
  typename Tiles::Tile next;
  RawCopy raw;
  bool has_next = tiles.find(next_index, next);
  if (!has_next) return;
  raw.enter(next, thread);
  const auto copy_next = [&](std::uint32_t slot) {
    if (has_next) {
      with_integer_format(next.type, [&](auto format) {
        raw.start<decltype(format)>(next, next_stage * kStageCols, shared.raw[slot], thread);
      });
      if (++next_stage == stages) {
        next_stage = 0, next_index += gridDim.x;
        has_next = tiles.find(next_index, next);
        if (has_next) raw.enter(next, thread);
      }
    }
    commit_copies();
  };
  std::uint32_t turn = 0;  // stages so far
  typename Tiles::Tile tile;
  copy_next(0);
  wait_for_predecessor();
  for (std::uint32_t index = blockIdx.x; tiles.find(index, tile); index += gridDim.x) {
    InputCopy inputs;
    inputs.enter(tile, thread);
    const bool minimums = has_minimums(tile.type);
    for (std::uint32_t s = 0; s < stages; ++s, ++turn) {
      const std::uint32_t slot = turn % kStages, column = s * kStageCols;
      Stage& stage = shared.stage[slot];
      shared.empty[slot].wait(turn / kStages);
      inputs.start(*tile.x, s, minimums && s % 2 == 1, stage, thread);
      shared.full[slot].arrive_behind_copies();
      commit_copies();
      wait_copies<1>();  // this stage's raw weights are there, and with the others' ...
      meet(1, kProducerThreads);
      copy_next((turn + 1) % kStages);
      with_integer_format(tile.type, [&](auto format) {
        decode<decltype(format)>(tile, column, shared.raw[slot], shared.vectors, stage, thread);
      });
      shared.full[slot].arrive();
    }
  }
  wait_copies<0>();
}

}  // namespace ds4::cuda::wide
