// Products of matrices with few activation rows: one launch for several matrices of one length, and
// the two launches of the experts. wide_products.h has those for many rows, one_row.h those that
// read most for a single row, and few_rows.h experts that have few each.
//
// A block is eight warps. Where a row has eight segments or more, all work on one tile of sixteen
// rows; else several tiles share a block. Blocks take some tiles more where that saves a second
// wave of blocks. Activation rows beyond a block's are further blocks (y), or for experts, whose
// numbers of rows only the device knows, further rounds.
#include <algorithm>
#include <vector>

#include "engine/cuda/kernels/few_rows.h"
#include "engine/cuda/kernels/multiply.cuh"
#include "engine/cuda/kernels/one_row.h"
#include "engine/cuda/kernels/wide_products.h"

namespace ds4::cuda {
namespace {

constexpr unsigned kThreads = kTileWarps * kWarp;
constexpr int kBlocksAtOnce = 3;  // of a multiprocessor
constexpr int kStages = 3;
__host__ __device__ constexpr int expert_stages(int nq) {
  return nq == 1 ? 3 : 2;
}
using Vectors = SignedVectors<8>;

/// How a block's warps share tiles: a warp has every `warps`-th segment of every `kTileWarps /
/// warps`-th tile, `1 << log_rounds` tiles.
struct Split {
  std::uint32_t segments, warps, log_rounds;

  __host__ __device__ static Split of(std::uint32_t cols) {
    const std::uint32_t segments = segments_of(cols);
    std::uint32_t warps = 1;
    while (warps < segments && warps < kTileWarps) warps *= 2;
    return {segments, warps, 0};
  }
  __host__ __device__ std::uint32_t tiles_at_once() const { return kTileWarps / warps; }
  __host__ __device__ std::uint32_t tiles() const { return tiles_at_once() << log_rounds; }
  __host__ std::uint32_t blocks(std::uint32_t rows) const {
    const std::uint32_t block_rows = tiles() * kTileRows;
    return (rows + block_rows - 1) / block_rows;
  }
};

/// Shared memory of a block: the warps' rings, then sums [tile][matrix][segment][input][16], then
/// what IQ2_XXS and single rows need.
__host__ __device__ inline std::uint32_t sums_floats(const Split& split, std::uint32_t inputs,
                                                     std::uint32_t matrices) {
  return split.tiles() * split.segments * matrices * inputs * kTileRows;
}
__host__ __device__ constexpr std::size_t ring_bytes(int stages) {
  return std::size_t{kTileWarps} * stages * kStageBytes;
}
using Terms = OwnTile<IntegerQ2_K, Vectors>::Terms;

__host__ __device__ inline bool needs_vectors(std::uint32_t type) {
  return type == static_cast<std::uint32_t>(TensorType::kIQ2_XXS);
}
/// A tile's first row: the last tile may share rows with the one before.
__device__ __forceinline__ std::uint32_t tile_row(const DeviceMatrix& weights, std::uint32_t tile) {
  return weights.rows < kTileRows ? 0 : min(tile * kTileRows, weights.rows - kTileRows);
}
__device__ __forceinline__ TileShape tile_shape(const DeviceMatrix& weights) {
  return {static_cast<std::uint32_t>(weights.row_bytes), min(weights.rows, kTileRows)};
}

/// Calls f(tile, type) with the tile for up to 4 * NQ rows that a matrix's format asks for, or, if
/// `terms` are given and the format is one of those that unpack long, for a single row.
template <int NQ, bool kOwn, typename F>
__device__ __forceinline__ void with_tile(std::uint32_t type, const Vectors* vectors, Terms* terms,
                                          const F& f) {
  using enum TensorType;
  const auto integers = [&]<class Format, TensorType kType>() {
    IntegerTile<Format, NQ, Vectors> tile(vectors);
    f.template operator()<kType>(tile);
  };
  const auto own = [&]<class Format, TensorType kType>() {
    if constexpr (kOwn) {
      if (terms != nullptr) {
        OwnTile<Format, Vectors> tile(vectors, terms);
        return f.template operator()<kType>(tile);
      }
    }
    integers.template operator()<Format, kType>();
  };
  const auto halves = [&]<class Format, TensorType kType>() {
    HalfTile<Format, kType, NQ> tile;
    f.template operator()<kType>(tile);
  };
  switch (static_cast<TensorType>(type)) {
    case kQ8_0:
      return integers.template operator()<IntegerQ8_0, kQ8_0>();
    case kQ4_K:
      return integers.template operator()<IntegerQ4_K, kQ4_K>();
    case kQ2_K:
      return own.template operator()<IntegerQ2_K, kQ2_K>();
    case kIQ2_XXS:
      return own.template operator()<IntegerIQ2_XXS, kIQ2_XXS>();
    case kF16:
      return halves.template operator()<FormatF16, kF16>();
    case kBF16:
      return halves.template operator()<FormatBF16, kBF16>();
    case kF32:
      return halves.template operator()<FormatF32, kF32>();
    case kMXFP4:
      return halves.template operator()<FormatMXFP4, kMXFP4>();
    default:
      return;
  }
}

std::uint32_t blocks_at_once() {
  static const std::uint32_t count = multiprocessors() * kBlocksAtOnce;
  return count;
}

// Products of one length ----------------------------------------------------------------------

struct ProductList {
  Product item[kMostProducts];
  std::uint32_t first_block[kMostProducts + 1];
  std::uint32_t n;
  Split split;
  const std::uint16_t* iq2_grid;
};

template <int NQ>
__global__ void __launch_bounds__(kThreads, NQ <= 2 ? 3 : (NQ <= 4 ? 2 : 1))
    products_kernel(const __grid_constant__ ProductList list) {
  extern __shared__ __align__(128) std::uint8_t base[];
  constexpr std::uint32_t kInputs = 4 * NQ;
  let_successor_start();
  const Split& split = list.split;
  auto* sums = reinterpret_cast<float*>(base + ring_bytes(kStages));
  auto* vectors = reinterpret_cast<Vectors*>(sums + sums_floats(split, kInputs, 1));
  std::uint32_t which = 0;
  while (blockIdx.x >= list.first_block[which + 1]) ++which;
  const Product& item = list.item[which];
  const DeviceMatrix& weights = item.weights;
  if (needs_vectors(weights.type)) {
    vectors->fill(list.iq2_grid);
    __syncthreads();
  }
  const std::uint32_t warp = threadIdx.x / kWarp;
  const std::uint32_t first_tile = (blockIdx.x - list.first_block[which]) * split.tiles();
  const std::uint32_t first_input = blockIdx.y * kInputs;
  const std::uint32_t inputs = min(list.n - first_input, kInputs);
  const std::uint32_t first_segment = warp & (split.warps - 1);
  const std::uint32_t my_tile = warp / split.warps;
  if (first_segment < split.segments) {
    const std::uint32_t jobs = ((split.segments - first_segment + split.warps - 1) / split.warps)
                               << split.log_rounds;
    const auto* data = reinterpret_cast<const std::uint8_t*>(weights.data);
    const auto job_at = [&](std::uint32_t i) {
      const std::uint32_t round = i & ((1u << split.log_rounds) - 1);
      const std::uint32_t tile = my_tile + round * split.tiles_at_once();
      const std::uint32_t segment = first_segment + (i >> split.log_rounds) * split.warps;
      return TileJob{data + tile_row(weights, first_tile + tile) * weights.row_bytes, segment,
                     sums + (tile * split.segments + segment) * kInputs * kTileRows};
    };
    with_tile<NQ, false>(weights.type, vectors, nullptr, [&]<TensorType kType>(auto& tile) {
      run_jobs<kType, kStages>(
          tile, jobs, job_at, tile_shape(weights), weights.cols,
          base + warp * kStages * kStageBytes, [&] {
            wait_for_predecessor();
            tile.enter({item.x, item.x_stride, item.integers},
                       [&](std::uint32_t input) { return first_input + min(input, inputs - 1); });
          });
    });
  } else {
    wait_for_predecessor();
  }
  __syncthreads();
  const std::uint32_t rows = split.tiles() * kTileRows;
  for (std::uint32_t i = threadIdx.x; i < rows * inputs; i += kThreads) {
    const std::uint32_t t = i % rows / kTileRows, r = i % kTileRows, input = i / rows;
    if ((first_tile + t) * kTileRows >= weights.rows) continue;
    const float value = add_segments(sums + (t * split.segments * kInputs + input) * kTileRows + r,
                                     split.segments, kInputs * kTileRows);
    const std::uint32_t row = tile_row(weights, first_tile + t) + r;
    if (item.y_integers.hi != nullptr)
      quantise_lane(__half2float(__float2half_rn(value)), item.y_integers,
                    std::size_t{first_input + input} * item.y_integers.stride, row);
    if (item.y == nullptr || row >= weights.rows) continue;
    const std::size_t at = std::size_t{first_input + input} * item.y_stride + row;
    if (item.half_out)
      static_cast<__half*>(item.y)[at] = __float2half_rn(value);
    else
      static_cast<float*>(item.y)[at] = value;
  }
}

// Experts -------------------------------------------------------------------------------------

struct ExpertList {
  ExpertProducts e;
  Split split;
  const std::uint16_t* iq2_grid;
  std::uint32_t vectors_bytes = 0, hidden_rows = 0;  // of shared memory
};

/// One group's matrices and entries: a routed expert's, or the shared expert's.
struct Group {
  std::uint32_t expert, begin, count;
  bool shared;
};

/// False for blocks of groups that do not exist.
__device__ __forceinline__ bool find_group(const ExpertProducts& e, Group& group) {
  if (blockIdx.y == 0) {
    group = {0, e.rows * e.used, e.rows, true};
    return true;
  }
  const std::uint32_t at = blockIdx.y - 1;
  if (at >= *e.groups.count) return false;
  const std::uint32_t begin = e.groups.begin[at];
  group = {e.groups.expert[at], begin, e.groups.begin[at + 1] - begin, false};
  return true;
}

/// Hidden rows as integers, in shared memory, by all threads of the block: every block of a down
/// product makes those that it needs.
__device__ __forceinline__ void quantise_hidden(const ExpertProducts& e, std::uint32_t first_entry,
                                                std::uint32_t rows, std::uint32_t width,
                                                const QuantisedRows& to) {
  const std::uint32_t parts = (width + kSumBlockColumns - 1) / kSumBlockColumns;
#pragma unroll 1
  for (std::uint32_t i = threadIdx.x / kWarp; i < parts * rows; i += kTileWarps) {
    const std::uint32_t row = i / parts;
    const std::uint32_t column = i % parts * kSumBlockColumns + 8 * (threadIdx.x % kWarp);
    float v[8] = {};
    if (column < width) load8_values(e.hidden + std::size_t{first_entry + row} * width + column, v);
    quantise8(v, to, row, column, width);
  }
  __syncthreads();
}

/// kMatrices 2: gate and up, gated, into hidden; 1: down. The shared expert's blocks come first:
/// they begin before anybody is routed.
template <int NQ, int kMatrices>
__global__ void __launch_bounds__(kThreads, 2)
    experts_kernel(const __grid_constant__ ExpertList list) {
  extern __shared__ __align__(128) std::uint8_t base[];
  constexpr std::uint32_t kInputs = 4 * NQ;
  let_successor_start();
  const ExpertProducts& e = list.e;
  const Split& split = list.split;
  constexpr bool kDown = kMatrices == 1;
  const bool is_shared = blockIdx.y == 0;
  const DeviceMatrix& weights = kDown ? (is_shared ? e.shared_down : e.down.first)
                                      : (is_shared ? e.shared_gate : e.gate.first);
  auto* sums = reinterpret_cast<float*>(base + ring_bytes(expert_stages(NQ)));
  auto* terms = reinterpret_cast<Terms*>(sums + sums_floats(split, kInputs, kMatrices));
  auto* vectors = reinterpret_cast<Vectors*>(terms + kTileWarps);
  auto* hidden = reinterpret_cast<std::byte*>(vectors) + list.vectors_bytes;
  if (!is_shared) wait_for_predecessor();
  Group group;
  if (!find_group(e, group)) return;
  const std::byte* matrix[2];
  matrix[0] = weights.data + (is_shared ? 0 : group.expert * (kDown ? e.down : e.gate).stride);
  matrix[1] = kDown ? nullptr
                    : (is_shared ? e.shared_up.data : e.up.first.data + group.expert * e.up.stride);
  const std::uint32_t warp = threadIdx.x / kWarp, cols = weights.cols;
  const std::uint32_t first_tile = blockIdx.x * split.tiles();
  const std::uint32_t first_segment = warp & (split.warps - 1), my_tile = warp / split.warps;
  const std::uint32_t tile_floats = split.segments * kInputs * kTileRows;
  const bool integers = multiplies_integers(weights.type);
  const QuantisedRows rows_here =
      kDown && integers ? QuantisedRows::place(hidden, list.hidden_rows, cols) : e.x_integers;
  for (std::uint32_t first = 0; first < group.count; first += kInputs) {
    const std::uint32_t inputs = min(group.count - first, kInputs);
    // What all warps do together, once their copies are under way.
    const auto prepare = [&] {
      if (is_shared) wait_for_predecessor();
      if (first == 0 && needs_vectors(weights.type)) {
        vectors->fill(list.iq2_grid);
        __syncthreads();
      }
      if (kDown && integers) quantise_hidden(e, group.begin + first, inputs, cols, rows_here);
    };
    if (first_segment < split.segments) {
      const std::uint32_t jobs =
          ((split.segments - first_segment + split.warps - 1) / split.warps * kMatrices)
          << split.log_rounds;
      // Both matrices of a tile, then the next tile, then the next segment.
      const auto job_at = [&](std::uint32_t i) {
        const std::uint32_t m = i % kMatrices, j = i / kMatrices;
        const std::uint32_t tile =
            my_tile + (j & ((1u << split.log_rounds) - 1)) * split.tiles_at_once();
        const std::uint32_t segment = first_segment + (j >> split.log_rounds) * split.warps;
        const std::size_t at = tile_row(weights, first_tile + tile) * weights.row_bytes;
        return TileJob{reinterpret_cast<const std::uint8_t*>(m == 0 ? matrix[0] : matrix[1]) + at,
                       segment,
                       sums + (tile * kMatrices + m) * tile_floats + segment * kInputs * kTileRows};
      };
      Terms* own = inputs == 1 ? terms + warp : nullptr;
      with_tile<NQ, true>(weights.type, vectors, own, [&]<TensorType kType>(auto& tile) {
        run_jobs<kType, expert_stages(NQ)>(
            tile, jobs, job_at, tile_shape(weights), cols,
            base + warp * expert_stages(NQ) * kStageBytes, [&] {
              prepare();
              tile.enter({kDown ? e.hidden : e.x, cols, rows_here}, [&](std::uint32_t input) {
                const std::uint32_t at = min(input, inputs - 1);
                if (kDown) return integers ? at : group.begin + first + at;
                return is_shared ? first + at : e.groups.entry_row[group.begin + first + at];
              });
            });
      });
    } else {
      prepare();
    }
    __syncthreads();
    const std::uint32_t rows = split.tiles() * kTileRows;
    for (std::uint32_t i = threadIdx.x; i < rows * inputs; i += kThreads) {
      const std::uint32_t t = i % rows / kTileRows, r = i % kTileRows, input = i / rows;
      if ((first_tile + t) * kTileRows >= weights.rows) continue;
      const float* at = sums + t * kMatrices * tile_floats + input * kTileRows + r;
      const float value = add_segments(at, split.segments, kInputs * kTileRows);
      const std::uint32_t row = tile_row(weights, first_tile + t) + r;
      if (row >= weights.rows) continue;
      const std::size_t to = std::size_t{group.begin + first + input} * weights.rows + row;
      if constexpr (kDown) {
        e.down_out[to] = value;
      } else {
        const float up = add_segments(at + tile_floats, split.segments, kInputs * kTileRows);
        e.hidden[to] = __float2half_rn(gated(value, up, e.limit));
      }
    }
    __syncthreads();  // before the next round's sums
  }
}

enum class Which { kAll, kShared };

template <int kMatrices>
void run_experts(Launcher& launcher, const ExpertProducts& experts, const std::uint16_t* grid,
                 Which which = Which::kAll) {
  const DeviceMatrix& routed = kMatrices == 1 ? experts.down.first : experts.gate.first;
  const DeviceMatrix& shared = kMatrices == 1 ? experts.shared_down : experts.shared_gate;
  const bool all = which == Which::kAll;
  const std::uint32_t groups =
      all ? std::min(experts.rows * experts.used, experts.n_expert) + 1 : 1;
  const bool vectors = (all && needs_vectors(routed.type)) || needs_vectors(shared.type);
  const auto with = [&]<int NQ>() {
    ExpertList list{experts, Split::of(routed.cols), grid};
    list.vectors_bytes = vectors ? sizeof(Vectors) : 0;
    // A table of experts may name one twice for a token.
    list.hidden_rows =
        kMatrices == 1 ? std::min<std::uint32_t>(experts.rows * experts.used, 4 * NQ) : 0;
    const auto bytes = [&] {
      return ring_bytes(expert_stages(NQ)) +
             sizeof(float) * sums_floats(list.split, 4 * NQ, kMatrices) +
             kTileWarps * sizeof(Terms) + list.vectors_bytes +
             QuantisedRows::bytes(list.hidden_rows, routed.cols);
    };
    // All blocks at once, if they have room.
    constexpr std::uint32_t kMostRounds = 2;  // as a logarithm
    while (list.split.log_rounds < kMostRounds &&
           list.split.blocks(routed.rows) * groups * kBlocksAtOnce > 2 * blocks_at_once()) {
      ++list.split.log_rounds;
      if (fits_shared(2 * bytes())) continue;
      --list.split.log_rounds;
      break;
    }
    launch(launcher, experts_kernel<NQ, kMatrices>, dim3(list.split.blocks(routed.rows), groups),
           kThreads, bytes(), 1, list);
  };
  if (experts.rows <= 4)
    with.template operator()<1>();
  else
    with.template operator()<2>();
}

void run_few(Launcher& launcher, std::span<const Product> products, std::uint32_t n,
             const std::uint16_t* iq2_grid) {
  ProductList list{};
  list.n = n;
  list.split = Split::of(products.front().weights.cols);
  list.iq2_grid = iq2_grid;
  const auto blocks = [&] {
    std::uint32_t total = 0;
    for (const Product& p : products) total += list.split.blocks(p.weights.rows);
    return total;
  };
  // What becomes integers must have 32 rows in one block.
  const bool pairs = std::any_of(products.begin(), products.end(),
                                 [](const Product& p) { return p.y_integers.hi != nullptr; });
  constexpr std::uint32_t kMostRounds = 1;  // as a logarithm
  if (pairs && list.split.tiles() < 2) list.split.log_rounds = 1;
  while (list.split.log_rounds < kMostRounds && blocks() > blocks_at_once())
    ++list.split.log_rounds;
  for (std::size_t i = 0; i < kMostProducts; ++i) {
    std::uint32_t count = 0;
    if (i < products.size()) {
      list.item[i] = products[i];
      count = list.split.blocks(products[i].weights.rows);
    }
    list.first_block[i + 1] = list.first_block[i] + count;
  }
  const bool vectors = std::any_of(products.begin(), products.end(),
                                   [](const Product& p) { return needs_vectors(p.weights.type); });
  const auto with = [&]<int NQ>() {
    const std::size_t bytes = ring_bytes(kStages) +
                              sizeof(float) * sums_floats(list.split, 4 * NQ, 1) +
                              (vectors ? sizeof(Vectors) : 0);
    if (!fits_shared(bytes)) return false;
    launch(launcher, products_kernel<NQ>,
           dim3(list.first_block[kMostProducts], (n + 4 * NQ - 1) / (4 * NQ)), kThreads, bytes, 1,
           list);
    return true;
  };
  if (n > 16 && with.template operator()<8>()) return;
  if (n > 8 && with.template operator()<4>()) return;
  if (n > 4 && with.template operator()<2>()) return;
  if (with.template operator()<1>()) return;
  if (launcher.error == cudaSuccess) launcher.error = cudaErrorInvalidConfiguration;
}

/// Two launches where the one of one_row.h has so much to read that it pays.
void run_single(Launcher& launcher, std::span<const Product> products,
                const std::uint16_t* iq2_grid) {
  constexpr std::uint64_t kWorthALaunch = 16 << 20;
  std::vector<Product> one_row, few;
  std::uint64_t bytes = 0;
  for (const Product& p : products) {
    const bool supported = one_row_supports(launcher, p);
    (supported ? one_row : few).push_back(p);
    if (supported) bytes += p.weights.rows * p.weights.row_bytes;
  }
  if (!few.empty() && bytes < kWorthALaunch) return run_few(launcher, products, 1, iq2_grid);
  run_one_row(launcher, one_row);
  if (!few.empty()) run_few(launcher, few, 1, iq2_grid);
}

}  // namespace

void run_products(Launcher& launcher, std::span<const Product> products, std::uint32_t n,
                  const std::uint16_t* iq2_grid) {
  if (n == 1) return run_single(launcher, products, iq2_grid);
  if (n < kWideFrom) return run_few(launcher, products, n, iq2_grid);
  std::vector<Product> few, wide;
  for (const Product& p : products) (wide_supports(p) ? wide : few).push_back(p);
  if (!wide.empty()) run_wide_products(launcher, wide, n, iq2_grid);
  if (!few.empty()) run_few(launcher, few, n, iq2_grid);
}

void run_gate_up(Launcher& launcher, const ExpertProducts& experts, const std::uint16_t* grid) {
  if (experts.rows >= kWideFrom && wide_supports(experts))
    return run_wide_gate_up(launcher, experts, grid);
  if (!few_rows_supports_gate_up(launcher, experts)) return run_experts<2>(launcher, experts, grid);
  if (experts.rows > 1) run_experts<2>(launcher, experts, grid, Which::kShared);
  run_few_rows_gate_up(launcher, experts, grid);
}

void run_down(Launcher& launcher, const ExpertProducts& experts, const std::uint16_t* grid) {
  if (experts.rows >= kWideFrom && wide_supports(experts))
    return run_wide_down(launcher, experts, grid);
  if (!few_rows_supports_down(launcher, experts)) return run_experts<1>(launcher, experts, grid);
  if (experts.rows > 1) run_experts<1>(launcher, experts, grid, Which::kShared);
  run_few_rows_down(launcher, experts);
}

}  // namespace ds4::cuda
