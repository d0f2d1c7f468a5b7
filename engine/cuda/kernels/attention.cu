// Attention of a row over its raw rows, in order of position, and then its
// compressed rows.
//
// All heads share one key row, so 16 or 64 heads meet 64 keys as a matrix
// product. These parts of 64 keys are computed by blocks of their own, each
// with its own maximum and sum, and are then joined one after the other,
// starting from the learned sink. How many heads a block takes changes no bit.
#include "engine/cuda/kernels/attention.cuh"

namespace ds4::cuda {
namespace {

/// out += weights * keys, for the warp's share of the dimensions.
template <int kHeads, int kDim>
__device__ __forceinline__ void accumulate(const Tile<kHeads, kDim> &tile,
                                           std::uint32_t heads, float *out) {
  using T = Tile<kHeads, kDim>;
  constexpr int kDims = kDim / static_cast<int>(kAttendWarps),
                kDimTiles = kDims / 8;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int dim0 = warp * kDims;
#pragma unroll 1
  for (int head0 = 0; head0 < kHeads; head0 += 16) {
    float acc[kDimTiles][4] = {};
#pragma unroll
    for (int k = 0; k < static_cast<int>(kKeyPart); k += 16) {
      std::uint32_t a[4];
      load_matrices(a, tile.weights + (head0 + lane % 16) * T::kWeightPitch +
                           k + lane / 16 * 8);
#pragma unroll
      for (int d = 0; d < kDimTiles; d += 2) {
        std::uint32_t b[4];
        load_matrices_transposed(
            b, tile.keys + (k + lane / 8 % 2 * 8 + lane % 8) * T::kPitch +
                   dim0 + 8 * d + lane / 16 * 8);
        multiply_add(acc[d], a, b[0], b[1]);
        multiply_add(acc[d + 1], a, b[2], b[3]);
      }
    }
#pragma unroll
    for (int d = 0; d < kDimTiles; ++d) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::uint32_t head = head0 + lane / 4 + 8 * half;
        if (head < heads)
          *reinterpret_cast<float2 *>(out + std::size_t{head} * kDim + dim0 +
                                      8 * d + lane % 4 * 2) =
              make_float2(acc[d][2 * half], acc[d][2 * half + 1]);
      }
    }
  }
}

/// Block (part, row of the pass, heads / kHeads).
template <int kHeads, int kDim>
__global__ void __launch_bounds__(kAttendThreads)
    attend_kernel(const __grid_constant__ AttentionArgs args) {
  extern __shared__ __align__(128) std::uint8_t base[];
  auto &tile = *reinterpret_cast<Tile<kHeads, kDim> *>(base);
  using T = Tile<kHeads, kDim>;
  let_successor_start();
  wait_for_predecessor();
  const Sizes &sizes = args.sizes;
  const std::uint32_t row = args.first_row + blockIdx.y;
  const KeyList list(args, row);
  const std::uint32_t first = blockIdx.x * kKeyPart;
  if (first >= list.total)
    return;
  const std::uint32_t count = min(kKeyPart, list.total - first);
  const std::uint32_t head0 = blockIdx.z * kHeads,
                      heads = min(sizes.n_head - head0, kHeads + 0u);

  if (threadIdx.x < kKeyPart)
    tile.key[threadIdx.x] =
        threadIdx.x < count ? list.key(first + threadIdx.x) : nullptr;
  const __half *q =
      args.at.q + (std::size_t{row} * sizes.n_head + head0) * kDim;
  constexpr std::uint32_t kPieces = kDim / 8;
  const auto fetch = [&](__half *to, const __half *from) {
    if (from != nullptr)
      copy16_async(to, from);
    else
      *reinterpret_cast<uint4 *>(to) = make_uint4(0, 0, 0, 0);
  };
  for (std::uint32_t i = threadIdx.x; i < kHeads * kPieces;
       i += kAttendThreads) {
    const std::uint32_t head = i / kPieces, at = i % kPieces * 8;
    fetch(tile.q + head * T::kPitch + at,
          head < heads ? q + std::size_t{head} * kDim + at : nullptr);
  }
  __syncthreads();
  for (std::uint32_t i = threadIdx.x; i < kKeyPart * kPieces;
       i += kAttendThreads) {
    const std::uint32_t k = i / kPieces, at = i % kPieces * 8;
    fetch(tile.keys + k * T::kPitch + at,
          tile.key[k] != nullptr ? tile.key[k] + at : nullptr);
  }
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  score<kHeads, kDim>(tile.q, tile.keys, tile.scores);
  __syncthreads();

  const std::size_t part = std::size_t{blockIdx.y} * args.at.parts + blockIdx.x;
  const float scale = 1.0f / sqrtf(static_cast<float>(kDim));
  for (std::uint32_t head = threadIdx.x / kWarp; head < kHeads;
       head += kAttendWarps) {
    const PartSums sums = weigh(tile.scores + head * T::kScorePitch, count,
                                scale, tile.weights + head * T::kWeightPitch);
    if (threadIdx.x % kWarp == 0 && head < heads) {
      args.at.part_max[part * sizes.n_head + head0 + head] = sums.top;
      args.at.part_sum[part * sizes.n_head + head0 + head] = sums.sum;
    }
  }
  __syncthreads();
  accumulate<kHeads, kDim>(
      tile, heads, args.at.part_acc + (part * sizes.n_head + head0) * kDim);
}

/// Columns of a block that joins: whole heads, and whole groups of what becomes
/// integers together.
__host__ __device__ inline std::uint32_t join_columns(const Sizes &sizes) {
  return max(sizes.head_dim, kSumBlockColumns);
}

/// Block (columns, row): joins the parts. The last block of a row remembers its
/// raw row.
__global__ void join_kernel(const __grid_constant__ AttentionArgs args) {
  let_successor_start();
  wait_for_predecessor();
  const Sizes &sizes = args.sizes;
  const std::uint32_t dim = sizes.head_dim, width = sizes.n_head * dim;
  const std::uint32_t column =
      blockIdx.x * join_columns(sizes) + kJoinValues * threadIdx.x;
  if (blockIdx.x * join_columns(sizes) >= width)
    return remember(args, blockIdx.y);
  if (blockIdx.y >= args.n)
    return;
  const std::uint32_t row = args.first_row + blockIdx.y, head = column / dim,
                      d = column % dim;
  float acc[kJoinValues] = {}, sum = 1;
  if (column < width) {
    const KeyList list(args, row);
    const std::uint32_t parts = (list.total + kKeyPart - 1) / kKeyPart;
    float top = args.at.sinks[head];
#pragma unroll 4
    for (std::uint32_t p = 0; p < parts; ++p) {
      const std::size_t at =
          (std::size_t{blockIdx.y} * args.at.parts + p) * sizes.n_head + head;
      const auto *v =
          reinterpret_cast<const float4 *>(args.at.part_acc + at * dim + d);
      const float4 a = v[0], b = v[1];
      const Join join(top, sum, {args.at.part_max[at], args.at.part_sum[at]});
      top = join.top, sum = join.sum;
      const float values[kJoinValues] = {a.x, a.y, a.z, a.w,
                                         b.x, b.y, b.z, b.w};
#pragma unroll
      for (std::uint32_t i = 0; i < kJoinValues; ++i)
        acc[i] = Join::value(acc[i], join.keep, values[i], join.add);
    }
  }
  finish_columns(args, row, column, sum, acc);
}

template <int kHeads, int kDim>
void launch_attend(Launcher &launcher, const AttentionArgs &args) {
  launch(launcher, attend_kernel<kHeads, kDim>,
         dim3(args.at.parts, args.n, (args.sizes.n_head + kHeads - 1) / kHeads),
         kAttendThreads, sizeof(Tile<kHeads, kDim>), 1, args);
}

} // namespace

bool attention_supports(const Sizes &sizes) {
  return sizes.head_dim == 512 || sizes.head_dim == 128;
}

void attend(Launcher &launcher, const Sizes &sizes, const Attention &attention,
            const RowEntry *rows, const SegmentEntry *segments,
            std::uint32_t first_row, std::uint32_t n,
            std::uint32_t rows_of_call, const float *angles) {
  const AttentionArgs args{sizes,  attention, rows, segments,
                           angles, first_row, n};
  if (attends_at_once(sizes, n))
    return attend_at_once(launcher, args, rows_of_call);
  // Few rows: more blocks. Many: a block's keys serve more heads.
  const bool few =
      n * attention.parts < 128 || !fits_shared(sizeof(Tile<64, 512>));
  if (sizes.head_dim == 128)
    launch_attend<16, 128>(launcher, args);
  else if (few)
    launch_attend<16, 512>(launcher, args);
  else
    launch_attend<64, 512>(launcher, args);
  const bool last = first_row + n == rows_of_call;
  const std::uint32_t columns = join_columns(sizes);
  const std::uint32_t blocks =
      (sizes.n_head * sizes.head_dim + columns - 1) / columns;
  launch(launcher, join_kernel,
         dim3(blocks + (last ? 1 : 0), last ? rows_of_call : n),
         columns / kJoinValues, 0, 1, args);
}

} // namespace ds4::cuda
