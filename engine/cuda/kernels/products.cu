// Products of matrices with activation rows: one launch for several matrices of one length, and the
// two launches of the experts.
//
// A block is eight warps. Where a row has eight segments or more, all work on one tile of sixteen
// rows; else several tiles share a block. Activation rows beyond 8 * NT are further blocks (y), or
// for experts, whose numbers of rows only the device knows, further rounds.
#include <algorithm>

#include "engine/cuda/kernels/tile.cuh"

namespace ds4::cuda {
namespace {

constexpr unsigned kThreads = kTileWarps * kWarp;

/// How a block's warps share tiles of matrices with `cols` columns.
struct Shape {
  std::uint32_t segments, warps_per_tile, tiles_per_block;
};
__host__ __device__ inline Shape shape_of(std::uint32_t cols) {
  const std::uint32_t segments = segments_of(cols);
  std::uint32_t warps = 1;
  while (warps < segments && warps < kTileWarps) warps *= 2;
  return {segments, warps, kTileWarps / warps};
}

/// Shared memory of a block: the warps' rings, then sums [tile][segment][8 * NT][16], then the
/// table of IQ2_XXS.
struct Shared {
  std::uint8_t* ring;
  float* sums;
  Iq2Table* table;

  __device__ Shared(std::uint8_t* base, std::size_t sums_bytes)
      : ring(base + threadIdx.x / kWarp * kRingBytes),
        sums(reinterpret_cast<float*>(base + kTileWarps * kRingBytes)),
        table(reinterpret_cast<Iq2Table*>(base + kTileWarps * kRingBytes + sums_bytes)) {}
};
__host__ __device__ inline std::size_t sums_bytes_of(const Shape& shape, int nt, int matrices) {
  return std::size_t{shape.tiles_per_block} * shape.segments * matrices * 8 * nt * kTileRows *
         sizeof(float);
}
std::size_t shared_bytes(const Shape& shape, int nt, int matrices, bool table) {
  return kTileWarps * kRingBytes + sums_bytes_of(shape, nt, matrices) +
         (table ? sizeof(Iq2Table) : 0);
}

__device__ __forceinline__ TileShape tile_shape(const DeviceMatrix& weights, std::uint32_t tile) {
  return {static_cast<std::uint32_t>(weights.row_bytes),
          min(weights.rows - tile * kTileRows, kTileRows)};
}
__device__ __forceinline__ const std::uint8_t* tile_data(const std::byte* data,
                                                         std::uint64_t row_bytes,
                                                         std::uint32_t tile) {
  return reinterpret_cast<const std::uint8_t*>(data) + tile * kTileRows * row_bytes;
}

__host__ __device__ inline bool needs_table(std::uint32_t type) {
  return type == static_cast<std::uint32_t>(TensorType::kIQ2_XXS);
}

// ---------------------------------------------------------------------------------------------

struct ProductList {
  Product item[kMostProducts];
  std::uint32_t first_block[kMostProducts + 1];
  std::uint32_t count, cols, n;
  const std::uint16_t* iq2_grid;
};

template <int NT>
__global__ void __launch_bounds__(kThreads, NT == 1 ? 3 : (NT <= 4 ? 2 : 1))
    products_kernel(const __grid_constant__ ProductList list) {
  extern __shared__ __align__(128) std::uint8_t base[];
  let_successor_start();
  const Shape shape = shape_of(list.cols);
  const Shared shared(base, sums_bytes_of(shape, NT, 1));
  std::uint32_t which = 0;
  while (blockIdx.x >= list.first_block[which + 1]) ++which;
  const Product& item = list.item[which];
  const DeviceMatrix& weights = item.weights;
  if (needs_table(weights.type)) {
    shared.table->fill(list.iq2_grid);
    __syncthreads();
  }
  const std::uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::uint32_t in_block = warp / shape.warps_per_tile;
  const std::uint32_t tiles = (weights.rows + kTileRows - 1) / kTileRows;
  const std::uint32_t first_tile = (blockIdx.x - list.first_block[which]) * shape.tiles_per_block;
  const std::uint32_t tile = first_tile + in_block;
  const std::uint32_t first_segment = warp % shape.warps_per_tile;
  const std::uint32_t first_input = blockIdx.y * 8 * NT;
  if (tile < tiles && first_segment < shape.segments) {
    const std::uint32_t jobs =
        (shape.segments - first_segment + shape.warps_per_tile - 1) / shape.warps_per_tile;
    const std::uint8_t* first = tile_data(weights.data, weights.row_bytes, tile);
    const auto job_at = [&](std::uint32_t i) {
      const std::uint32_t segment = first_segment + i * shape.warps_per_tile;
      return TileJob{first, segment,
                     shared.sums + (in_block * shape.segments + segment) * 8 * NT * kTileRows};
    };
    const auto ready = [&] {
      wait_for_predecessor();
      LaneInputs<NT> inputs;
#pragma unroll
      for (int i = 0; i < NT; ++i) {
        const std::uint32_t row = first_input + 8 * i + lane / 4;
        inputs.x[i] =
            row < list.n ? item.x + std::size_t{row} * item.x_stride + 8 * (lane % 4) : nullptr;
      }
      return inputs;
    };
    with_format(weights.type, [&](auto format) {
      run_jobs<decltype(format), NT>(jobs, job_at, tile_shape(weights, tile), list.cols,
                                     shared.ring, shared.table, ready);
    });
  } else {
    wait_for_predecessor();
  }
  __syncthreads();
  const std::uint32_t inputs = min(list.n - first_input, 8u * NT);
  for (std::uint32_t i = threadIdx.x; i < shape.tiles_per_block * kTileRows * inputs;
       i += kThreads) {
    const std::uint32_t r = i % kTileRows, input = i / kTileRows % inputs;
    const std::uint32_t t = i / kTileRows / inputs;
    const std::uint32_t row = (first_tile + t) * kTileRows + r;
    if (row >= weights.rows) continue;
    const float value = add_segments<NT>(shared.sums + t * shape.segments * 8 * NT * kTileRows,
                                         shape.segments, input, r);
    const std::size_t at = std::size_t{first_input + input} * item.y_stride + row;
    if (item.half_out)
      static_cast<__half*>(item.y)[at] = __float2half_rn(value);
    else
      static_cast<float*>(item.y)[at] = value;
  }
}

// ---------------------------------------------------------------------------------------------

struct ExpertList {
  ExpertProducts e;
  const std::uint16_t* iq2_grid;
};

/// One group's matrices and entries: a routed expert's, or the shared expert's.
struct Group {
  std::uint32_t expert, begin, count;
  bool shared;
};

/// False for blocks of groups that do not exist.
__device__ __forceinline__ bool find_group(const ExpertProducts& e, Group& group) {
  if (blockIdx.y == gridDim.y - 1) {
    group = {0, e.rows * e.used, e.rows, true};
    return true;
  }
  if (blockIdx.y >= *e.groups.count) return false;
  const std::uint32_t begin = e.groups.begin[blockIdx.y];
  group = {e.groups.expert[blockIdx.y], begin, e.groups.begin[blockIdx.y + 1] - begin, false};
  return true;
}

/// silu(min(gate, limit)) * clamp(up, -limit, limit)
__device__ __forceinline__ float gated(float gate, float up, float limit) {
  const float g = fminf(gate, limit), u = fminf(fmaxf(up, -limit), limit);
  return __fmul_rn(__fdiv_rn(g, __fadd_rn(1.0f, expf(-g))), u);
}

/// kMatrices 2: gate and up, gated, into hidden; 1: down.
template <int NT, int kMatrices>
__global__ void __launch_bounds__(kThreads, NT == 1 ? 3 : (NT <= 4 ? 2 : 1))
    experts_kernel(const __grid_constant__ ExpertList list) {
  extern __shared__ __align__(128) std::uint8_t base[];
  let_successor_start();
  const ExpertProducts& e = list.e;
  const bool down = kMatrices == 1;
  const ExpertStack& first_stack = down ? e.down : e.gate;
  const std::uint32_t cols = first_stack.first.cols;
  const Shape shape = shape_of(cols);
  const Shared shared(base, sums_bytes_of(shape, NT, kMatrices));
  const bool is_shared = blockIdx.y == gridDim.y - 1;
  const DeviceMatrix& weights =
      is_shared ? (down ? e.shared_down : e.shared_gate) : first_stack.first;
  if (needs_table(weights.type)) {
    shared.table->fill(list.iq2_grid);
    __syncthreads();
  }
  if (!is_shared) wait_for_predecessor();
  Group group;
  if (!find_group(e, group)) return;
  const std::byte* matrix[2];
  matrix[0] = weights.data + (is_shared ? 0 : group.expert * first_stack.stride);
  matrix[1] = down ? nullptr
                   : (is_shared ? e.shared_up.data : e.up.first.data + group.expert * e.up.stride);

  const std::uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::uint32_t in_block = warp / shape.warps_per_tile;
  const std::uint32_t tiles = (weights.rows + kTileRows - 1) / kTileRows;
  const std::uint32_t first_tile = blockIdx.x * shape.tiles_per_block;
  const std::uint32_t tile = first_tile + in_block;
  const std::uint32_t first_segment = warp % shape.warps_per_tile;
  const std::size_t tile_sums = std::size_t{shape.segments} * 8 * NT * kTileRows;
  for (std::uint32_t first = 0; first < group.count; first += 8 * NT) {
    if (tile < tiles && first_segment < shape.segments) {
      const std::uint32_t jobs =
          (shape.segments - first_segment + shape.warps_per_tile - 1) / shape.warps_per_tile;
      // Both matrices of a segment, then the next segment.
      const auto job_at = [&](std::uint32_t i) {
        const std::uint32_t m = i % kMatrices;
        const std::uint32_t segment = first_segment + i / kMatrices * shape.warps_per_tile;
        return TileJob{
            tile_data(matrix[m], weights.row_bytes, tile), segment,
            shared.sums + (in_block * kMatrices + m) * tile_sums + segment * 8 * NT * kTileRows};
      };
      const auto ready = [&] {
        if (is_shared) wait_for_predecessor();
        LaneInputs<NT> inputs;
#pragma unroll
        for (int i = 0; i < NT; ++i) {
          const std::uint32_t at = first + 8 * i + lane / 4, entry = group.begin + at;
          inputs.x[i] = nullptr;
          if (at >= group.count) continue;
          const std::uint32_t row = down ? entry : (is_shared ? at : e.groups.entry_row[entry]);
          inputs.x[i] = (down ? e.hidden : e.x) + std::size_t{row} * cols + 8 * (lane % 4);
        }
        return inputs;
      };
      with_format(weights.type, [&](auto format) {
        run_jobs<decltype(format), NT>(kMatrices * jobs, job_at, tile_shape(weights, tile), cols,
                                       shared.ring, shared.table, ready);
      });
    } else if (is_shared) {
      wait_for_predecessor();
    }
    __syncthreads();
    const std::uint32_t inputs = min(group.count - first, 8u * NT);
    for (std::uint32_t i = threadIdx.x; i < shape.tiles_per_block * kTileRows * inputs;
         i += kThreads) {
      const std::uint32_t r = i % kTileRows, input = i / kTileRows % inputs;
      const std::uint32_t t = i / kTileRows / inputs;
      const std::uint32_t row = (first_tile + t) * kTileRows + r;
      if (row >= weights.rows) continue;
      const float* sums = shared.sums + t * kMatrices * tile_sums;
      const float value = add_segments<NT>(sums, shape.segments, input, r);
      const std::size_t at = std::size_t{group.begin + first + input} * weights.rows + row;
      if constexpr (kMatrices == 2) {
        const float up = add_segments<NT>(sums + tile_sums, shape.segments, input, r);
        e.hidden[at] = __float2half_rn(gated(value, up, e.limit));
      } else {
        e.down_out[at] = value;
      }
    }
    __syncthreads();  // before the next round's sums
  }
}

template <int kMatrices>
void run_experts(Launcher& launcher, const ExpertProducts& experts, const std::uint16_t* grid) {
  const ExpertStack& stack = kMatrices == 1 ? experts.down : experts.gate;
  const Shape shape = shape_of(stack.first.cols);
  const std::uint32_t tiles = (stack.first.rows + kTileRows - 1) / kTileRows;
  const dim3 blocks((tiles + shape.tiles_per_block - 1) / shape.tiles_per_block,
                    min(experts.rows * experts.used, experts.n_expert) + 1);
  const ExpertList list{experts, grid};
  const auto with = [&]<int NT>() {
    launch(launcher, experts_kernel<NT, kMatrices>, blocks, kThreads,
           shared_bytes(shape, NT, kMatrices, needs_table(stack.first.type)), 1, list);
  };
  // Few rows seldom meet in an expert.
  if (experts.rows <= 32)
    with.template operator()<1>();
  else if (experts.rows <= 256 ||
           !fits_shared(shared_bytes(shape, 8, kMatrices, needs_table(stack.first.type))))
    with.template operator()<2>();
  else
    with.template operator()<8>();
}

}  // namespace

void run_products(Launcher& launcher, std::span<const Product> products, std::uint32_t n,
                  const std::uint16_t* iq2_grid) {
  ProductList list{};
  list.count = static_cast<std::uint32_t>(products.size());
  list.cols = products.front().weights.cols;
  list.n = n;
  list.iq2_grid = iq2_grid;
  const Shape shape = shape_of(list.cols);
  for (std::size_t i = 0; i < kMostProducts; ++i) {
    std::uint32_t blocks = 0;
    if (i < products.size()) {
      list.item[i] = products[i];
      const std::uint32_t tiles = (products[i].weights.rows + kTileRows - 1) / kTileRows;
      blocks = (tiles + shape.tiles_per_block - 1) / shape.tiles_per_block;
    }
    list.first_block[i + 1] = list.first_block[i] + blocks;
  }
  const bool table = std::any_of(products.begin(), products.end(),
                                 [](const Product& p) { return needs_table(p.weights.type); });
  const auto with = [&]<int NT>() {
    const dim3 blocks(list.first_block[kMostProducts], (n + 8 * NT - 1) / (8 * NT));
    launch(launcher, products_kernel<NT>, blocks, kThreads, shared_bytes(shape, NT, 1, table), 1,
           list);
  };
  if (n <= 8)
    with.template operator()<1>();
  else if (n <= 16)
    with.template operator()<2>();
  else if (n <= 32 || !fits_shared(shared_bytes(shape, 8, 1, table)))
    with.template operator()<4>();
  else
    with.template operator()<8>();
}

void run_gate_up(Launcher& launcher, const ExpertProducts& experts, const std::uint16_t* grid) {
  run_experts<2>(launcher, experts, grid);
}

void run_down(Launcher& launcher, const ExpertProducts& experts, const std::uint16_t* grid) {
  run_experts<1>(launcher, experts, grid);
}

}  // namespace ds4::cuda
