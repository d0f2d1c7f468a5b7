#pragma once
// How weights reach a warp: through its own ring in shared memory, a unit of sixteen rows at a
// time. What is copied next never depends on what is computed, so a warp runs through its list of
// units twice, once to start copies and, a few units later, to multiply.
#include "engine/cuda/kernels/common.cuh"
#include "engine/gguf/tensor_type.h"

namespace ds4::cuda {

inline constexpr std::uint32_t kSegment = 512;     // columns that are summed by themselves
inline constexpr std::uint32_t kTileRows = 16;     // of weights
inline constexpr std::uint32_t kTileWarps = 8;     // of a block, which multiply
inline constexpr std::uint32_t kUnitBytes = 2560;  // of a unit's place in the ring
inline constexpr std::uint32_t kMostUnits = 4;     // of a ring

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

/// How a matrix is laid out.
struct MatrixShape {
  std::uint32_t row_bytes, rows, cols, type;

  __device__ static MatrixShape of(const DeviceMatrix& m) {
    return {static_cast<std::uint32_t>(m.row_bytes), m.rows, m.cols, m.type};
  }
};

/// Sixteen rows of a matrix, or all that there are.
struct TileShape {
  std::uint32_t row_bytes = 0;
  std::uint32_t count = 0;  // rows behind them repeat the last

  __device__ static TileShape of(const MatrixShape& weights) {
    return {weights.row_bytes, min(weights.rows, kTileRows)};
  }
  __device__ std::uint32_t offset(std::uint32_t r) const {
    return (r < count ? r : count - 1) * row_bytes;
  }
};

/// Copies units of tiles of one matrix, in pieces of 16 bytes; a row's bytes keep their place
/// within
/// 16. Where rows begin at multiples of 16 bytes and hold whole units, the pieces are laid out
/// once.
class UnitCopy {
 public:
  __device__ void configure(const MatrixShape& weights) {
    const UnitFormat format = unit_format(static_cast<TensorType>(weights.type));
    cols = format.cols, bytes = format.bytes, row_cols = weights.cols;
    // A unit is skewed by multiples of what its length lacks to 16s: no further piece is needed.
    const std::uint32_t pieces = (format.bytes + 15) / 16;
    const TileShape shape = TileShape::of(weights);
    lanes_ = weights.row_bytes % 16 == 0 && weights.cols % format.cols == 0 ? kRegular : 0;
#pragma unroll
    for (std::uint32_t i = 0; i < kCopies; ++i) {
      const std::uint32_t piece = threadIdx.x % kWarp + kWarp * i, r = piece / pieces;
      from_[i] = shape.offset(r) + 16 * (piece % pieces);
      to_[i] = r * format.pitch + 16 * (piece % pieces);
      if (r < kTileRows) lanes_ |= 1u << i;
    }
  }
  /// The unit that begins at `first` in the tile's first row and at `column`, to `place` in shared
  /// memory.
  __device__ __forceinline__ void start(std::uint32_t place, const std::uint8_t* first,
                                        std::uint32_t column, const MatrixShape& weights) const {
    if (column >= row_cols) return;
    if ((lanes_ & kRegular) != 0) {
      first -= reinterpret_cast<std::uintptr_t>(first) & 15;
#pragma unroll
      for (std::uint32_t i = 0; i < kCopies; ++i)
        if ((lanes_ & 1u << i) != 0) copy16_async(place + to_[i], first + from_[i]);
      return;
    }
    const UnitFormat format = unit_format(static_cast<TensorType>(weights.type));
    const TileShape shape = TileShape::of(weights);
    const std::uint32_t length = min(weights.cols - column, cols) * bytes / cols;
#pragma unroll 1
    for (std::uint32_t r = threadIdx.x % kWarp / 8; r < kTileRows; r += 4) {
      const std::uint8_t* row = first + shape.offset(r);
      const std::uint32_t skew = reinterpret_cast<std::uintptr_t>(row) & 15;
#pragma unroll 1
      for (std::uint32_t at = 16 * (threadIdx.x % 8); at < length + skew; at += 128)
        copy16_async(place + r * format.pitch + at, row - skew + at);
    }
  }
  std::uint32_t cols = 0, bytes = 0;  // of a unit
  std::uint32_t row_cols = 0;

 private:
  static constexpr std::uint32_t kCopies = 5;  // 9 pieces of 16 rows by 32 lanes
  static constexpr std::uint32_t kRegular = 1u << 31;

  std::uint32_t lanes_;  // bit i: this lane has an i-th piece
  std::uint32_t from_[kCopies], to_[kCopies];
};

/// How the warps of a block share an item, which is `tiles` tiles of one or two matrices: a warp
/// has every `warps_per_tile`-th segment of every `8 / warps_per_tile`-th tile.
struct Split {
  std::uint32_t segments, warps_per_tile, tiles;
  std::uint32_t log_warps;  // of a tile

  __host__ __device__ static Split of(std::uint32_t cols, std::uint32_t least_tiles) {
    const std::uint32_t segments = segments_of(cols);
    std::uint32_t log = 0;
    while (1u << log < segments && 1u << log < kTileWarps) ++log;
    const std::uint32_t tiles = kTileWarps >> log;
    return {segments, 1u << log, tiles < least_tiles ? least_tiles : tiles, log};
  }
  __device__ std::uint32_t first_tile() const { return threadIdx.x / kWarp >> log_warps; }
  __device__ std::uint32_t tile_step() const { return kTileWarps >> log_warps; }
  __device__ std::uint32_t first_segment() const {
    return threadIdx.x / kWarp & (warps_per_tile - 1);
  }
  /// Whether this warp has anything to do in an item.
  __device__ bool has_work() const { return first_segment() < segments; }
};

/// Where an item lies: its first row in either matrix.
struct ItemPlace {
  const std::uint8_t* matrix[2];
  std::uint32_t first_row;

  /// A tile's first byte; a matrix's last tile may share rows with the one before.
  __device__ const std::uint8_t* tile(const MatrixShape& weights, std::uint32_t tile,
                                      std::uint32_t of) const {
    const std::uint32_t last = weights.rows < kTileRows ? 0 : weights.rows - kTileRows;
    return matrix[of] + std::uint64_t{min(first_row + tile * kTileRows, last)} * weights.row_bytes;
  }
};

/// The copying side of a warp. `Items` lists what the block works on:
///   first(), next(item) -> an item, or kNoItem; more may be known after learn(), from
///     first_learnt() on
///   weights(item) -> MatrixShape of all of the item's matrices; kind(item): equal
///     for items of one layout
///   place(item) -> ItemPlace;  rounds(item): how often the item is done
inline constexpr std::uint32_t kNoItem = 0xFFFFFFFFu;

template <class Items, std::uint32_t kMatrices>
class UnitFeed {
 public:
  __device__ UnitFeed(const Items& items, const Split& split, std::uint8_t* ring,
                      std::uint32_t units)
      : items_(items),
        split_(split),
        begin_(shared_address(ring)),
        end_(begin_ + units * kUnitBytes),
        place_(begin_) {
    item_ = split.has_work() ? items.first() : kNoItem;
    kind_ = kNoItem;
    enter_item();
  }
  /// The next unit, or nothing behind the last; either way one group of copies.
  __device__ __forceinline__ void start() {
    if (item_ != kNoItem) {
      copy_.start(place_, first_, segment_ * kSegment + column_, items_.weights(item_));
      first_ += copy_.bytes;
      column_ += copy_.cols;
      if (column_ == kSegment) next_job();
    }
    place_ += kUnitBytes;
    if (place_ == end_) place_ = begin_;
    commit_copies();
  }
  /// Goes on where the items ended that were known before; nothing is lost if they have not.
  __device__ void learn() {
    if (item_ != kNoItem || !split_.has_work()) return;
    item_ = items_.first_learnt();
    enter_item();
  }
  __device__ bool idle() const { return item_ == kNoItem; }

 private:
  __device__ void enter_item() {
    round_ = 0;
    if (item_ == kNoItem) return;
    if (items_.kind(item_) != kind_) {
      kind_ = items_.kind(item_);
      copy_.configure(items_.weights(item_));
    }
    rounds_ = items_.rounds(item_);
    where_ = items_.place(item_);
    enter_round();
  }
  __device__ void enter_round() {
    matrix_ = 0;
    tile_ = split_.first_tile();
    segment_ = split_.first_segment();
    find_unit();
  }
  __device__ __forceinline__ void find_unit() {
    column_ = 0;
    first_ = where_.tile(items_.weights(item_), tile_, matrix_) +
             segment_ * (kSegment / copy_.cols * copy_.bytes);
  }
  __device__ __forceinline__ void next_job() {
    if (++matrix_ == kMatrices) {
      matrix_ = 0;
      segment_ += split_.warps_per_tile;
      if (segment_ >= split_.segments) {
        segment_ = split_.first_segment();
        tile_ += split_.tile_step();
        if (tile_ >= split_.tiles) {
          if (++round_ < rounds_) return enter_round();
          item_ = items_.next(item_);
          return enter_item();
        }
      }
    }
    find_unit();
  }

  const Items& items_;
  const Split& split_;
  UnitCopy copy_;
  const std::uint32_t begin_, end_;
  std::uint32_t place_;
  std::uint32_t item_, kind_, round_, rounds_, tile_, segment_, matrix_, column_;
  ItemPlace where_;
  const std::uint8_t* first_;  // of the next unit
};

}  // namespace ds4::cuda
