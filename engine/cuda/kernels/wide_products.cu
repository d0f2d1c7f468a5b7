// Products for many rows of activations, with weights that are integers; quantised.cuh has the
// arithmetic, which the kernels for few rows share bit for bit.
//
// A block is as large as a processor allows and goes from tile to tile of 128 weight rows by 128
// activation rows, 128 columns a stage. Four of its warps produce stages: they copy activations and
// raw blocks, and turn the blocks into bytes, once for 128 activation rows. Sixteen warps consume
// them: each multiplies 32 by 32 rows and adds a block's integers to its float sums, which is what
// the kernel's time goes to (four instructions a sum and 32 columns). Two stages lie between the
// two, so producers are ahead across tiles, too. Sums of the segments before wait in shared memory.
#include <vector>

#include "engine/cuda/kernels/wide_products.h"
#include "engine/cuda/kernels/wide_stages.cuh"

namespace ds4::cuda {
namespace {

using namespace wide;

// Consumers -----------------------------------------------------------------------------------

/// a: 16 rows by 32 columns of weights; c = a * b for 8 activation rows.
__device__ __forceinline__ void multiply_bytes(std::int32_t (&c)[4], const std::uint32_t (&a)[4],
                                               std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%10,%10,%10};"
      : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(0));
}
__device__ __forceinline__ void multiply_bytes(std::int32_t (&c)[4], const std::uint32_t (&a)[2],
                                               std::uint32_t b) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%7,%7,%7,%7};"
      : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b), "r"(0));
}

using WarpSums = float[kRowFrags][kInputFrags][4];

/// A consumer's lane: g = lane / 4 and t = lane % 4; sums [m][i][c] are of weight row
/// row0 + 16m + g + 8 (c / 2) and activation row input0 + 8i + 2t + c % 2.
struct ConsumerLane {
  std::uint32_t lane, g, t, row0, input0, row_address, input_address;

  __device__ explicit ConsumerLane(std::uint32_t warp)
      : lane(threadIdx.x % kWarp),
        g(lane / 4),
        t(lane % 4),
        row0(warp % kWarpsDown * kWarpRows),
        input0(warp / kWarpsDown * kWarpInputs),
        row_address((row0 + lane % 16) * kStageCols + swizzle(lane, lane / 16)),
        input_address((input0 + lane % 8) * kStageCols + swizzle(lane, lane / 8 % 2) +
                      lane / 16 * (kWideInputs * kStageCols)) {}
};

__device__ __forceinline__ float2 two_floats(const float* from) {
  return *reinterpret_cast<const float2*>(from);
}
__device__ __forceinline__ void load_bytes(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// Of the warp's first 8 * kFrags activation rows.
template <int kFrags>
__device__ __forceinline__ void multiply_stage(const Stage& stage, const ConsumerLane& at,
                                               WarpSums& sums) {
  const std::uint32_t rows = shared_address(stage.weights) + at.row_address;
  const std::uint32_t inputs = shared_address(stage.hi) + at.input_address;
#pragma unroll 1
  for (std::uint32_t chunk = 0; chunk < kChunks; ++chunk) {
    std::uint32_t a[kRowFrags][4];
    float w_scale[kRowFrags][2];
#pragma unroll
    for (int m = 0; m < kRowFrags; ++m) {
      load_bytes(a[m], (rows ^ 32 * chunk) + m * 16 * kStageCols);
      const float2 two = two_floats(stage.w_scale[chunk] + at.row0 + 16 * m + 2 * at.g);
      w_scale[m][0] = two.x, w_scale[m][1] = two.y;
    }
#pragma unroll
    for (int i = 0; i < kFrags; ++i) {
      std::uint32_t b[4];
      load_bytes(b, (inputs ^ 32 * chunk) + i * 8 * kStageCols);
      const float2 two = two_floats(stage.x_scale[chunk] + at.input0 + 8 * i + 2 * at.t);
      const float x_scale[2] = {two.x, two.y};
#pragma unroll
      for (int m = 0; m < kRowFrags; ++m) {
        std::int32_t hi[4], lo[4];
        multiply_bytes(hi, a[m], b[0], b[1]);
        multiply_bytes(lo, a[m], b[2], b[3]);
#pragma unroll
        for (int c = 0; c < 4; ++c)
          sums[m][i][c] =
              add_block(sums[m][i][c], plane_sum(hi[c], lo[c]), w_scale[m][c / 2], x_scale[c % 2]);
      }
    }
  }
}

__device__ __forceinline__ void take_minimums(const Stage& stage, const ConsumerLane& at,
                                              WarpSums& sums) {
  std::uint32_t a[kRowFrags][2];
  float dmin[kRowFrags][2];
  const auto word = [&](const std::uint8_t(&row)[16]) {
    return *reinterpret_cast<const std::uint32_t*>(row + 4 * at.t);
  };
#pragma unroll
  for (int m = 0; m < kRowFrags; ++m) {
    const std::uint32_t row = at.row0 + 16 * m + at.g;
    a[m][0] = word(stage.minimums[row]), a[m][1] = word(stage.minimums[row + 8]);
    const float2 two = two_floats(stage.dmin + at.row0 + 16 * m + 2 * at.g);
    dmin[m][0] = two.x, dmin[m][1] = two.y;
  }
#pragma unroll
  for (int i = 0; i < kInputFrags; ++i) {
    const std::uint32_t input = at.input0 + 8 * i;
    const std::uint32_t b_hi = word(stage.sum_hi[input + at.g]);
    const std::uint32_t b_lo = word(stage.sum_lo[input + at.g]);
    const float2 two = two_floats(stage.sum_scale + input + 2 * at.t);
    const float sum_scale[2] = {two.x, two.y};
#pragma unroll
    for (int m = 0; m < kRowFrags; ++m) {
      std::int32_t hi[4], lo[4];
      multiply_bytes(hi, a[m], b_hi);
      multiply_bytes(lo, a[m], b_lo);
#pragma unroll
      for (int c = 0; c < 4; ++c)
        sums[m][i][c] =
            add_minimums(sums[m][i][c], plane_sum(hi[c], lo[c]), dmin[m][c / 2], sum_scale[c % 2]);
    }
  }
}

/// sums = totals + sums; the first segment's totals are 0.
__device__ __forceinline__ void add_totals(const WideShared& shared, bool first, WarpSums& sums) {
#pragma unroll
  for (int m = 0; m < kRowFrags; ++m)
#pragma unroll
    for (int i = 0; i < kInputFrags; ++i) {
      const float4 t =
          first ? make_float4(0, 0, 0, 0) : shared.totals[m * kInputFrags + i][threadIdx.x];
      sums[m][i][0] = __fadd_rn(t.x, sums[m][i][0]);
      sums[m][i][1] = __fadd_rn(t.y, sums[m][i][1]);
      sums[m][i][2] = __fadd_rn(t.z, sums[m][i][2]);
      sums[m][i][3] = __fadd_rn(t.w, sums[m][i][3]);
    }
}

/// The same number, of which the compiler knows nothing.
__device__ __forceinline__ std::uint32_t opaque(std::uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

template <class Tiles>
__device__ void consume(const typename Tiles::View& tiles, WideShared& shared) {
  const ConsumerLane at(threadIdx.x / kWarp);
  const std::uint32_t stages = tiles.cols() / kStageCols;
  std::uint32_t turn = 0;
  wait_for_predecessor();
  typename Tiles::Tile tile;
  for (std::uint32_t index = blockIdx.x; tiles.find(index, tile); index += gridDim.x) {
    const bool minimums = has_minimums(tile.type), idle = at.input0 >= tile.inputs;
    const std::uint32_t inputs = idle ? 0 : tile.inputs - at.input0;
    WarpSums sums = {};
    for (std::uint32_t s = 0; s < stages; ++s, ++turn) {
      const std::uint32_t slot = turn % kStages;
      shared.full[slot].wait(turn / kStages);
      if (!idle) {
        if (inputs <= 8)
          multiply_stage<1>(shared.stage[slot], at, sums);
        else if (inputs <= 16)
          multiply_stage<2>(shared.stage[slot], at, sums);
        else
          multiply_stage<kInputFrags>(shared.stage[slot], at, sums);
        if (minimums && s % 2 == 1) take_minimums(shared.stage[slot], at, sums);
      }
      __syncwarp();
      if (at.lane == 0) shared.empty[slot].arrive();
      if (idle || (s + 1) % kStagesOfSegment != 0 || s + 1 == stages) continue;
      add_totals(shared, s < kStagesOfSegment, sums);
#pragma unroll
      for (int m = 0; m < kRowFrags; ++m)
#pragma unroll
        for (int i = 0; i < kInputFrags; ++i) {
          float(&v)[4] = sums[m][i];
          shared.totals[m * kInputFrags + i][threadIdx.x] = make_float4(v[0], v[1], v[2], v[3]);
          v[0] = v[1] = v[2] = v[3] = 0;
        }
    }
    if (idle) continue;
    add_totals(shared, stages <= kStagesOfSegment, sums);
    // Found again: registers are too few to hold the tile all the while.
    tiles.find(opaque(index), tile);
    tiles.store(tile, at.row0, at.input0, FinishedSums<kRowFrags, kInputFrags>{at.g, at.t, sums});
  }
}

template <class Tiles>
__global__ void __launch_bounds__(kThreads, 1) wide_kernel(const __grid_constant__ Tiles all) {
  extern __shared__ __align__(128) std::uint8_t base[];
  auto& shared = *reinterpret_cast<WideShared*>(base);
  __shared__ typename Tiles::Shared of_tiles;
  let_successor_start();
  if (threadIdx.x == 0) {
    for (std::uint32_t i = 0; i < kStages; ++i) {
      shared.full[i].init(2 * kProducerThreads);  // weights written, and copies complete
      shared.empty[i].init(kConsumers);
    }
  }
  if (all.iq2_grid != nullptr) shared.vectors.fill(all.iq2_grid);
  __syncthreads();
  // Stages are empty at first: phase 0 of each ends at once.
  if (threadIdx.x < kConsumerThreads && threadIdx.x % kWarp == 0)
    for (std::uint32_t i = 0; i < kStages; ++i) shared.empty[i].arrive();
  const typename Tiles::View tiles = all.view(of_tiles);
  if (threadIdx.x >= kConsumerThreads)
    produce<Tiles>(tiles, shared, threadIdx.x - kConsumerThreads);
  else
    consume<Tiles>(tiles, shared);
}

template <class Tiles>
void run(Launcher& launcher, const Tiles& tiles) {
  launch(launcher, wide_kernel<Tiles>, dim3(multiprocessors()), kThreads, sizeof(WideShared), 1,
         tiles);
}

bool needs_vectors(const DeviceMatrix& weights) {
  return weights.type == static_cast<std::uint32_t>(TensorType::kIQ2_XXS);
}
bool has_wide_form(const DeviceMatrix& weights, const QuantisedRows& x) {
  return multiplies_integers(weights.type) && weights.cols % kStageCols == 0 && x.hi != nullptr &&
         x.stride % kStageCols == 0;
}

}  // namespace

bool wide_supports(const Product& product) {
  return wide_halves_support(product) ||
         (has_wide_form(product.weights, product.integers) && fits_shared(sizeof(WideShared)));
}
bool wide_supports(const ExpertProducts& e) {
  return has_wide_form(e.gate.first, e.x_integers) && has_wide_form(e.shared_gate, e.x_integers) &&
         has_wide_form(e.down.first, e.hidden_integers) &&
         has_wide_form(e.shared_down, e.hidden_integers) && e.n_expert <= kMostWideExperts &&
         fits_shared(sizeof(WideShared));
}

void run_wide_products(Launcher& launcher, std::span<const Product> products, std::uint32_t n,
                       const std::uint16_t* iq2_grid) {
  std::vector<Product> halves, integers;
  bool vectors = false;
  for (const Product& p : products) {
    (multiplies_integers(p.weights.type) ? integers : halves).push_back(p);
    vectors = vectors || needs_vectors(p.weights);
  }
  if (!halves.empty()) run_wide_halves(launcher, halves, n);
  if (integers.empty()) return;
  ProductTiles list = ProductTiles::of(integers, n);
  if (vectors) list.iq2_grid = iq2_grid;
  run(launcher, list);
}

void run_wide_gate_up(Launcher& launcher, const ExpertProducts& e, const std::uint16_t* iq2_grid) {
  run(launcher, ExpertTiles<false>{e, iq2_grid});
}

void run_wide_down(Launcher& launcher, const ExpertProducts& e, const std::uint16_t* iq2_grid) {
  run(launcher, ExpertTiles<true>{e, iq2_grid});
}

}  // namespace ds4::cuda
