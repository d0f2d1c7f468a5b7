// Products for many rows of activations with weights that are halves. A block has 128 weight rows
// and 128 activation rows; both come 64 columns a stage, some stages ahead. Columns meet the matrix
// instruction in the order in which the kernels for few rows put them (formats.cuh), sixteen at a
// time within a segment.
#include "engine/cuda/kernels/wide_tiles.cuh"

namespace ds4::cuda {
namespace {

constexpr std::uint32_t kStageCols = 64, kStages = 4;
constexpr unsigned kThreads = 256;
constexpr std::uint32_t kWarpRows = 64, kWarpInputs = 32;
constexpr int kRowFrags = kWarpRows / 16, kInputFrags = kWarpInputs / 8;

/// Piece p of 16 bytes of row r stands at p ^ 4 (r % 2): a warp reads four pieces of eight rows,
/// two rows at a time.
struct alignas(128) Stage {
  __half weights[kWideRows][kStageCols];
  __half inputs[kWideInputs][kStageCols];
};
__device__ __forceinline__ std::uint32_t place(std::uint32_t row, std::uint32_t piece) {
  return 8 * (piece ^ row % 2 * 4);
}
__device__ __forceinline__ uint4 eight_halves(const __half (&row)[kStageCols], std::uint32_t at) {
  return *reinterpret_cast<const uint4*>(row + at);
}

using WarpSums = float[kRowFrags][kInputFrags][4];

/// Copies a stage: eight threads a row, four rows of each kind a thread.
class StageCopy {
 public:
  __device__ StageCopy(const ProductTiles::Tile& tile, const Product& product)
      : row_(threadIdx.x / 8), piece_(threadIdx.x % 8) {
#pragma unroll
    for (std::uint32_t i = 0; i < kRounds; ++i) {
      const std::uint32_t r = row_ + kRowsAtOnce * i;
      weights_[i] = tile.weights[0] + tile.row_offset(r) + 16 * piece_;
      const std::uint32_t input = tile.first_input + min(r, tile.inputs - 1);
      inputs_[i] = product.x + std::size_t{input} * product.x_stride + 8 * piece_;
    }
  }
  __device__ __forceinline__ void start(std::uint32_t column, Stage& stage) const {
#pragma unroll
    for (std::uint32_t i = 0; i < kRounds; ++i) {
      const std::uint32_t r = row_ + kRowsAtOnce * i;
      copy16_async(stage.weights[r] + place(r, piece_), weights_[i] + 2 * column);
      copy16_async(stage.inputs[r] + place(r, piece_), inputs_[i] + column);
    }
  }

 private:
  static constexpr std::uint32_t kRowsAtOnce = kThreads / 8, kRounds = kWideRows / kRowsAtOnce;
  static_assert(kWideRows == kWideInputs);

  std::uint32_t row_, piece_;
  const std::uint8_t* weights_[kRounds];
  const __half* inputs_[kRounds];
};

__device__ __forceinline__ void multiply_stage(const Stage& stage, std::uint32_t row0,
                                               std::uint32_t input0, WarpSums& sums) {
  const std::uint32_t g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
  for (std::uint32_t chunk = 0; chunk < kStageCols / 32; ++chunk) {
    const std::uint32_t at = place(g, 4 * chunk + t);
    uint4 b[kInputFrags];
#pragma unroll
    for (int i = 0; i < kInputFrags; ++i) b[i] = eight_halves(stage.inputs[input0 + 8 * i + g], at);
#pragma unroll
    for (int m = 0; m < kRowFrags; ++m) {
      const uint4 u = eight_halves(stage.weights[row0 + 16 * m + g], at);
      const uint4 l = eight_halves(stage.weights[row0 + 16 * m + g + 8], at);
      const std::uint32_t a0[4] = {u.x, l.x, u.y, l.y}, a1[4] = {u.z, l.z, u.w, l.w};
#pragma unroll
      for (int i = 0; i < kInputFrags; ++i) multiply_add(sums[m][i], a0, b[i].x, b[i].y);
#pragma unroll
      for (int i = 0; i < kInputFrags; ++i) multiply_add(sums[m][i], a1, b[i].z, b[i].w);
    }
  }
}

/// Block (tile of weights, tile of activations).
__global__ void __launch_bounds__(kThreads, 1)
    wide_halves_kernel(const __grid_constant__ ProductTiles all) {
  extern __shared__ __align__(128) std::uint8_t base[];
  auto* stage = reinterpret_cast<Stage*>(base);
  let_successor_start();
  wait_for_predecessor();
  const ProductTiles::View tiles{all};
  ProductTiles::Tile tile;
  if (!tiles.find(blockIdx.y * gridDim.x + blockIdx.x, tile)) return;
  const StageCopy copy(tile, all.product[tile.item]);
  const std::uint32_t stages = all.cols / kStageCols;
#pragma unroll
  for (std::uint32_t s = 0; s < kStages - 1; ++s) {
    if (s < stages) copy.start(s * kStageCols, stage[s]);
    commit_copies();
  }
  const std::uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::uint32_t row0 = warp % 2 * kWarpRows, input0 = warp / 2 * kWarpInputs;
  WarpSums sums = {}, totals = {};
  for (std::uint32_t s = 0; s < stages; ++s) {
    wait_copies<kStages - 2>();
    __syncthreads();  // the stage is there, and all are done with the one before
    const std::uint32_t next = s + kStages - 1;
    if (next < stages) copy.start(next * kStageCols, stage[next % kStages]);
    commit_copies();
    multiply_stage(stage[s % kStages], row0, input0, sums);
    if ((s + 1) % (kSegment / kStageCols) != 0 && s + 1 != stages) continue;
#pragma unroll
    for (int m = 0; m < kRowFrags; ++m)
#pragma unroll
      for (int i = 0; i < kInputFrags; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          totals[m][i][c] = __fadd_rn(totals[m][i][c], sums[m][i][c]);
          sums[m][i][c] = 0;
        }
  }
  tiles.store(tile, row0, input0, FinishedSums<kRowFrags, kInputFrags>{lane / 4, lane % 4, totals});
}

}  // namespace

bool wide_halves_support(const Product& product) {
  return product.weights.type == static_cast<std::uint32_t>(TensorType::kF16) &&
         product.weights.cols % kStageCols == 0 && product.x != nullptr &&
         fits_shared(kStages * sizeof(Stage));
}

void run_wide_halves(Launcher& launcher, std::span<const Product> products, std::uint32_t n) {
  const ProductTiles list = ProductTiles::of(products, n);
  launch(launcher, wide_halves_kernel,
         dim3(list.first_tile[kMostProducts], (n + kWideInputs - 1) / kWideInputs), kThreads,
         kStages * sizeof(Stage), 1, list);
}

}  // namespace ds4::cuda
