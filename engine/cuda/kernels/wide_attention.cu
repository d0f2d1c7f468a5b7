// Attention of many rows: a block has a row and up to 64 of its heads, goes through the row's keys
// 64 at a time and joins the parts as they come. What attention.cu's kernels pass to one another
// through memory stays in registers here; the arithmetic is the same, in the same order.
#include "engine/cuda/kernels/attention.cuh"

namespace ds4::cuda {
namespace {

constexpr unsigned kThreads = 512;
constexpr int kWarps = kThreads / kWarp, kHeads = 64, kDim = 512;
using T = Tile<kHeads, kDim>;
constexpr int kPieces = kDim / 8;     // of 16 bytes, of a key
constexpr int kDims = kDim / kWarps;  // of a warp: 32
constexpr int kHeadFrags = kHeads / 16, kDimFrags = kDims / 8;
constexpr std::uint32_t kOutPitch = kDim + kKeyPad;  // floats

struct WideTile {
  __half keys[2][kKeyPart * T::kPitch];  // in turns; in the end [head][kOutPitch] floats
  __half q[kHeads * T::kPitch];
  __half weights[kHeads * T::kWeightPitch];
  float scores[kHeads * T::kScorePitch];
  float keep[kHeads], add[kHeads], sum[kHeads];
  const __half* key[2][kKeyPart];
};
static_assert(sizeof(WideTile::keys) >= kHeads * kOutPitch * sizeof(float));

using HeadSums = float[kHeadFrags][kDimFrags][4];

/// sums = keep * sums + add * (weights * keys), for the warp's share of the dimensions. A part's
/// products are complete before they join.
__device__ __forceinline__ void accumulate(const WideTile& tile, const __half* keys,
                                           HeadSums& sums) {
  constexpr int kHeadsAtOnce = 2, kDimsAtOnce = 4;
  const int lane = threadIdx.x % kWarp, dim0 = static_cast<int>(threadIdx.x / kWarp) * kDims;
  const __half* key = keys + (lane / 8 % 2 * 8 + lane % 8) * T::kPitch + dim0 + lane / 16 * 8;
  const __half* weight = tile.weights + lane % 16 * T::kWeightPitch + lane / 16 * 8;
#pragma unroll
  for (int h0 = 0; h0 < kHeadFrags; h0 += kHeadsAtOnce) {
    float keep[kHeadsAtOnce][2], add[kHeadsAtOnce][2];
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int head = 16 * (h0 + h) + 8 * half + lane / 4;
        keep[h][half] = tile.keep[head], add[h][half] = tile.add[head];
      }
#pragma unroll
    for (int d0 = 0; d0 < kDimFrags; d0 += kDimsAtOnce) {
      float part[kHeadsAtOnce][kDimsAtOnce][4] = {};
#pragma unroll
      for (int k = 0; k < static_cast<int>(kKeyPart); k += 16) {
        std::uint32_t a[kHeadsAtOnce][4];
#pragma unroll
        for (int h = 0; h < kHeadsAtOnce; ++h)
          load_matrices(a[h], weight + 16 * (h0 + h) * T::kWeightPitch + k);
#pragma unroll
        for (int d = 0; d < kDimsAtOnce; d += 2) {
          std::uint32_t b[4];
          load_matrices_transposed(b, key + k * T::kPitch + 8 * (d0 + d));
#pragma unroll
          for (int h = 0; h < kHeadsAtOnce; ++h) {
            multiply_add(part[h][d], a[h], b[0], b[1]);
            multiply_add(part[h][d + 1], a[h], b[2], b[3]);
          }
        }
      }
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h)
#pragma unroll
        for (int d = 0; d < kDimsAtOnce; ++d)
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            float& sum = sums[h0 + h][d0 + d][c];
            sum = Join::value(sum, keep[h][c / 2], part[h][d][c], add[h][c / 2]);
          }
    }
  }
}

/// Block (row, heads / 64).
__global__ void __launch_bounds__(kThreads, 1)
    attend_at_once_kernel(const __grid_constant__ AttentionArgs args) {
  extern __shared__ __align__(128) std::uint8_t base[];
  auto& tile = *reinterpret_cast<WideTile*>(base);
  let_successor_start();
  wait_for_predecessor();
  const Sizes& sizes = args.sizes;
  const std::uint32_t row = args.first_row + blockIdx.x, head0 = blockIdx.y * kHeads;
  const std::uint32_t heads = min(sizes.n_head - head0, kHeads + 0u);
  const std::uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const KeyList list(args, row);
  const std::uint32_t parts = (list.total + kKeyPart - 1) / kKeyPart;
  const auto fetch = [&](__half* to, const __half* from) {
    if (from != nullptr)
      copy16_async(to, from);
    else
      *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
  };
  const auto find_keys = [&](std::uint32_t part) {
    const std::uint32_t i = part * kKeyPart + threadIdx.x;
    if (threadIdx.x < kKeyPart)
      tile.key[part % 2][threadIdx.x] = i < list.total ? list.key(i) : nullptr;
  };
  const auto copy_keys = [&](std::uint32_t part) {
    for (std::uint32_t i = threadIdx.x; i < kKeyPart * kPieces; i += kThreads) {
      const std::uint32_t k = i / kPieces, at = i % kPieces * 8;
      const __half* key = tile.key[part % 2][k];
      fetch(tile.keys[part % 2] + k * T::kPitch + at, key != nullptr ? key + at : nullptr);
    }
    commit_copies();
  };
  find_keys(0);
  const __half* q = args.at.q + (std::size_t{row} * sizes.n_head + head0) * kDim;
  for (std::uint32_t i = threadIdx.x; i < kHeads * kPieces; i += kThreads) {
    const std::uint32_t head = i / kPieces, at = i % kPieces * 8;
    fetch(tile.q + head * T::kPitch + at,
          head < heads ? q + std::size_t{head} * kDim + at : nullptr);
  }
  __syncthreads();
  copy_keys(0);
  if (parts > 1) find_keys(1);

  // A warp's heads are warp, warp + 16, ...
  constexpr int kHeadsOfWarp = kHeads / kWarps;
  float top[kHeadsOfWarp], sum[kHeadsOfWarp];
#pragma unroll
  for (int i = 0; i < kHeadsOfWarp; ++i) {
    const std::uint32_t head = warp + kWarps * i;
    top[i] = head < heads ? args.at.sinks[head0 + head] : 0.0f, sum[i] = 1;
  }
  const float scale = 1.0f / sqrtf(static_cast<float>(kDim));
  HeadSums sums = {};
  for (std::uint32_t part = 0; part < parts; ++part) {
    wait_copies<0>();
    __syncthreads();  // the part's keys are there, and all are done with the one before
    if (part + 1 < parts) copy_keys(part + 1);
    const __half* keys = tile.keys[part % 2];
    score<kHeads, kDim, kWarps>(tile.q, keys, tile.scores);
    __syncthreads();
    const std::uint32_t count = min(kKeyPart, list.total - part * kKeyPart);
#pragma unroll
    for (int i = 0; i < kHeadsOfWarp; ++i) {
      const std::uint32_t head = warp + kWarps * i;
      const PartSums of_part = weigh(tile.scores + head * T::kScorePitch, count, scale,
                                     tile.weights + head * T::kWeightPitch);
      const Join join(top[i], sum[i], of_part);
      top[i] = join.top, sum[i] = join.sum;
      if (lane == 0) tile.keep[head] = join.keep, tile.add[head] = join.add;
    }
    if (part + 2 < parts) find_keys(part + 2);
    __syncthreads();
    accumulate(tile, keys, sums);
  }
  if (lane == 0)
    for (int i = 0; i < kHeadsOfWarp; ++i) tile.sum[warp + kWarps * i] = sum[i];
  __syncthreads();  // keys are no longer needed

  auto* out = reinterpret_cast<float*>(tile.keys);
#pragma unroll
  for (int h = 0; h < kHeadFrags; ++h)
#pragma unroll
    for (int d = 0; d < kDimFrags; ++d)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<float2*>(out + (16 * h + 8 * half + lane / 4) * kOutPitch + warp * kDims +
                                   8 * d + lane % 4 * 2) =
            make_float2(sums[h][d][2 * half], sums[h][d][2 * half + 1]);
  __syncthreads();
  constexpr std::uint32_t kColumns = kJoinValues * kWarp;
  for (std::uint32_t i = warp; i < heads * (kDim / kColumns); i += kWarps) {
    const std::uint32_t head = i / (kDim / kColumns);
    const std::uint32_t d = i % (kDim / kColumns) * kColumns + kJoinValues * lane;
    const auto* from = reinterpret_cast<const float4*>(out + head * kOutPitch + d);
    const float4 a = from[0], b = from[1];
    float acc[kJoinValues] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    finish_columns(args, row, (head0 + head) * kDim + d, tile.sum[head], acc);
  }
}

constexpr unsigned kRememberThreads = 128;
__global__ void remember_kernel(const __grid_constant__ AttentionArgs args) {
  let_successor_start();
  wait_for_predecessor();
  remember(args, blockIdx.x);
}

}  // namespace

bool attends_at_once(const Sizes& sizes, std::uint32_t n) {
  constexpr std::uint32_t kManyRows = 128;  // every processor has one
  return sizes.head_dim == kDim && n >= kManyRows && fits_shared(sizeof(WideTile));
}

void attend_at_once(Launcher& launcher, const AttentionArgs& args, std::uint32_t rows_of_call) {
  launch(launcher, attend_at_once_kernel, dim3(args.n, (args.sizes.n_head + kHeads - 1) / kHeads),
         kThreads, sizeof(WideTile), 1, args);
  if (args.first_row + args.n == rows_of_call)
    launch(launcher, remember_kernel, dim3(rows_of_call), kRememberThreads, 0, 1, args);
}

}  // namespace ds4::cuda
