#pragma once
// What the tiles of wide_products.cu are: of a list of products, or of the experts of a layer,
// whose numbers of rows only the device knows.
//
// `find` gives a block's tile of an index, or says that there are no more; `store` takes its sums.
// Tiles of the same activation rows follow one another, so that they share these in the cache.
#include "engine/cuda/kernels/integer_formats.cuh"

namespace ds4::cuda {

inline constexpr std::uint32_t kWideRows = 128;    // of weights
inline constexpr std::uint32_t kWideInputs = 128;  // of activations

inline constexpr std::uint32_t kPairRows = 16;

/// One tile. With kPairs rows come from two matrices, kPairRows of the first and the same ones of
/// the second in turns, and half as many make a tile.
template <bool kPairs>
struct WideTile {
  const std::uint8_t* weights[2];
  std::uint32_t row_bytes, rows, first_row, type;
  const QuantisedRows* x;
  const std::uint32_t* gather;  // activation rows, unless they follow one another from first_input
  std::uint32_t first_input, inputs;  // at most kWideInputs
  std::uint32_t item;                 // of the products

  static constexpr std::uint32_t kRows = kPairs ? kWideRows / 2 : kWideRows;

  __device__ __forceinline__ const std::uint8_t* matrix_of(std::uint32_t r) const {
    return kPairs && r / kPairRows % 2 != 0 ? weights[1] : weights[0];
  }
  /// Of a row's bytes in its matrix. Rows behind the last repeat it.
  __device__ __forceinline__ std::uint32_t row_offset(std::uint32_t r) const {
    const std::uint32_t row =
        first_row + (kPairs ? r / (2 * kPairRows) * kPairRows + r % kPairRows : r);
    return min(row, rows - 1) * row_bytes;
  }
  __device__ std::uint32_t input_row(std::uint32_t i) const {
    return gather != nullptr ? gather[i] : first_input + i;
  }
};

__device__ __forceinline__ const std::uint8_t* bytes_of(const std::byte* data) {
  return reinterpret_cast<const std::uint8_t*>(data);
}

/// A warp's finished sums, where g = lane / 4 and t = lane % 4: sums [m][i][c] are of weight row
/// 16m + g + 8 (c / 2) and activation row 8i + 2t + c % 2, counted from the warp's first.
template <int kRowFrags, int kInputFrags>
struct FinishedSums {
  std::uint32_t g, t;
  const float (&sums)[kRowFrags][kInputFrags][4];

  /// f(row, input, value)
  template <typename F>
  __device__ __forceinline__ void each(const F& f) const {
#pragma unroll
    for (int m = 0; m < kRowFrags; ++m)
#pragma unroll
      for (int i = 0; i < kInputFrags; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          f(16 * m + g + 8 * (c / 2), 8 * i + 2 * t + c % 2, sums[m][i][c]);
  }
  /// Of tiles of pairs: f(row, input, first, second).
  template <typename F>
  __device__ __forceinline__ void each_pair(const F& f) const {
#pragma unroll
    for (int m = 0; m < kRowFrags / 2; ++m)
#pragma unroll
      for (int i = 0; i < kInputFrags; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          f(16 * m + g + 8 * (c / 2), 8 * i + 2 * t + c % 2, sums[m][i][c],
            sums[m + kRowFrags / 2][i][c]);
  }
};

/// Several products of one length with the same number of activation rows.
struct ProductTiles {
  static constexpr bool kPairs = false;
  using Tile = WideTile<kPairs>;
  struct Shared {};
  struct View {
    const ProductTiles& list;

    __device__ std::uint32_t cols() const { return list.cols; }
    __device__ bool find(std::uint32_t index, Tile& tile) const {
      const std::uint32_t across = list.first_tile[kMostProducts], down = index / across;
      if (down * kWideInputs >= list.n) return false;
      index %= across;
      tile.item = 0;
      while (index >= list.first_tile[tile.item + 1]) ++tile.item;
      const DeviceMatrix& weights = list.product[tile.item].weights;
      tile.weights[0] = tile.weights[1] = bytes_of(weights.data);
      tile.row_bytes = static_cast<std::uint32_t>(weights.row_bytes);
      tile.rows = weights.rows, tile.type = weights.type;
      tile.first_row = (index - list.first_tile[tile.item]) * kWideRows;
      tile.x = &list.product[tile.item].integers;
      tile.gather = nullptr;
      tile.first_input = down * kWideInputs;
      tile.inputs = min(list.n - tile.first_input, kWideInputs);
      return true;
    }
    template <typename Sums>
    __device__ void store(const Tile& tile, std::uint32_t row0, std::uint32_t input0,
                          const Sums& sums) const {
      const Product& to = list.product[tile.item];
      sums.each([&](std::uint32_t r, std::uint32_t i, float value) {
        const std::uint32_t row = tile.first_row + row0 + r, input = input0 + i;
        if (row >= tile.rows || input >= tile.inputs) return;
        const std::size_t at = std::size_t{tile.first_input + input} * to.y_stride + row;
        if (to.half_out)
          static_cast<__half*>(to.y)[at] = __float2half_rn(value);
        else
          static_cast<float*>(to.y)[at] = value;
      });
    }
  };

  Product product[kMostProducts];
  std::uint32_t first_tile[kMostProducts + 1];  // of one tile of activation rows
  std::uint32_t cols, n;
  const std::uint16_t* iq2_grid;  // null: no weights are IQ2_XXS

  __device__ View view(Shared&) const { return {*this}; }

  static ProductTiles of(std::span<const Product> products, std::uint32_t n) {
    ProductTiles list{};
    list.cols = products.front().weights.cols;
    list.n = n;
    for (std::size_t i = 0; i < kMostProducts; ++i) {
      list.first_tile[i + 1] = list.first_tile[i];
      if (i >= products.size()) continue;
      list.product[i] = products[i];
      list.first_tile[i + 1] += (products[i].weights.rows + kWideRows - 1) / kWideRows;
    }
    return list;
  }
};

inline constexpr std::uint32_t kMostWideExperts = 512;

/// Gate and up, gated, into hidden; or down.
template <bool kDown>
struct ExpertTiles {
  static constexpr bool kPairs = !kDown;
  using Tile = WideTile<kPairs>;
  /// Tiles of activation rows before each group's; the shared expert's is the last group.
  struct Shared {
    std::uint32_t groups, first_tile[kMostWideExperts + 2];
  };
  struct View {
    const ExpertTiles& list;
    const Shared& shared;

    __device__ std::uint32_t cols() const { return list.stack().first.cols; }
    __device__ bool find(std::uint32_t index, Tile& tile) const {
      const ExpertProducts& e = list.e;
      const std::uint32_t rows = list.stack().first.rows;
      const std::uint32_t across = (rows + Tile::kRows - 1) / Tile::kRows, down = index / across;
      if (down >= shared.first_tile[shared.groups + 1]) return false;
      std::uint32_t low = 0, high = shared.groups;
      while (low < high) {
        const std::uint32_t middle = (low + high + 1) / 2;
        if (shared.first_tile[middle] <= down)
          low = middle;
        else
          high = middle - 1;
      }
      const bool of_all = low == shared.groups;
      const std::uint32_t expert = of_all ? 0 : e.groups.expert[low];
      const auto matrix = [&](const ExpertStack& stack, const DeviceMatrix& of_shared) {
        return bytes_of(of_all ? of_shared.data : stack.first.data + expert * stack.stride);
      };
      tile.weights[0] = kDown ? matrix(e.down, e.shared_down) : matrix(e.gate, e.shared_gate);
      tile.weights[1] = kDown ? tile.weights[0] : matrix(e.up, e.shared_up);
      const DeviceMatrix& like =
          of_all ? (kDown ? e.shared_down : e.shared_gate) : list.stack().first;
      tile.row_bytes = static_cast<std::uint32_t>(like.row_bytes);
      tile.rows = rows, tile.type = like.type;
      tile.first_row = index % across * Tile::kRows;
      const std::uint32_t begin = of_all ? e.rows * e.used : e.groups.begin[low];
      const std::uint32_t count = of_all ? e.rows : e.groups.begin[low + 1] - begin;
      const std::uint32_t first = (down - shared.first_tile[low]) * kWideInputs;
      tile.inputs = min(count - first, kWideInputs);
      tile.item = begin + first;  // the first entry
      tile.x = kDown ? &e.hidden_integers : &e.x_integers;
      tile.first_input = kDown ? begin + first : first;
      tile.gather = kDown || of_all ? nullptr : e.groups.entry_row + begin + first;
      return true;
    }
    template <typename Sums>
    __device__ void store(const Tile& tile, std::uint32_t row0, std::uint32_t input0,
                          const Sums& sums) const {
      const std::uint32_t first_row = tile.first_row + (kPairs ? row0 / 2 : row0);
      const auto at = [&](std::uint32_t r, std::uint32_t i, auto&& then) {
        if (first_row + r < tile.rows && input0 + i < tile.inputs)
          then(std::size_t{tile.item + input0 + i} * tile.rows + first_row + r);
      };
      if constexpr (kDown) {
        sums.each([&](std::uint32_t r, std::uint32_t i, float value) {
          at(r, i, [&](std::size_t to) { list.e.down_out[to] = value; });
        });
      } else {
        sums.each_pair([&](std::uint32_t r, std::uint32_t i, float gate, float up) {
          at(r, i, [&](std::size_t to) {
            list.e.hidden[to] = __float2half_rn(gated(gate, up, list.e.limit));
          });
        });
      }
    }
  };

  ExpertProducts e;
  const std::uint16_t* iq2_grid;

  __host__ __device__ const ExpertStack& stack() const { return kDown ? e.down : e.gate; }
  /// By all threads of a block.
  __device__ View view(Shared& shared) const {
    wait_for_predecessor();
    if (threadIdx.x < kWarp) {
      const std::uint32_t groups = *e.groups.count, lane = threadIdx.x;
      std::uint32_t before = 0;
      for (std::uint32_t first = 0; first <= groups; first += kWarp) {
        const std::uint32_t group = first + lane;
        const std::uint32_t count =
            group < groups ? e.groups.begin[group + 1] - e.groups.begin[group] : e.rows;
        const std::uint32_t tiles = group <= groups ? (count + kWideInputs - 1) / kWideInputs : 0;
        std::uint32_t sum = tiles;
#pragma unroll
        for (std::uint32_t step = 1; step < kWarp; step *= 2) {
          const std::uint32_t other = __shfl_up_sync(kFullWarp, sum, step);
          if (lane >= step) sum += other;
        }
        if (group <= groups) shared.first_tile[group] = before + sum - tiles;
        before += __shfl_sync(kFullWarp, sum, kWarp - 1);
      }
      if (lane == 0) shared.groups = groups, shared.first_tile[groups + 1] = before;
    }
    __syncthreads();
    return {*this, shared};
  }
};

}  // namespace ds4::cuda
