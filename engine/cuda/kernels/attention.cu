// Attention of a row over its raw rows, in order of position, and then its compressed rows.
//
// All heads share one key row, so 16 or 64 heads meet 64 keys as a matrix product. These parts of
// 64 keys are computed by blocks of their own, each with its own maximum and sum, and are then
// joined one after the other, starting from the learned sink. How many heads a block takes changes
// no bit.
#include "engine/cuda/kernels/rounding.cuh"

namespace ds4::cuda {
namespace {

constexpr unsigned kThreads = 256, kWarps = kThreads / kWarp;
constexpr std::uint32_t kPad = 8;  // halves: eight rows cover all banks

struct AttentionArgs {
  Sizes sizes;
  Attention at;
  const RowEntry* rows;
  const SegmentEntry* segments;
  const float* angles;
  std::uint32_t first_row, n;
};

/// A row's keys: raw rows first, then compressed ones.
struct KeyList {
  const __half* ring;
  const __half* own;  // raw rows of the call
  const __half* compressed;
  const std::uint32_t* chosen;  // null: all
  std::uint32_t raw_first, raw_count, total, first_position, ring_rows, dim;

  __device__ KeyList(const AttentionArgs& args, std::uint32_t row) {
    const Sizes& sizes = args.sizes;
    const RowEntry entry = args.rows[row];
    const SegmentEntry segment = args.segments[entry.segment];
    const CacheLayer at = reinterpret_cast<const CacheLayer*>(segment.cache)[args.at.layer];
    dim = sizes.head_dim;
    ring = reinterpret_cast<const __half*>(segment.cache + at.raw);
    compressed = reinterpret_cast<const __half*>(segment.cache + at.compressed);
    own = args.at.kv + std::size_t{segment.first_row} * dim;
    first_position = segment.first_position;
    ring_rows = at.ring_rows;
    raw_count = min(entry.position + 1, sizes.window);
    raw_first = entry.position + 1 - raw_count;
    const std::uint32_t visible = args.at.ratio == 0 ? 0 : (entry.position + 1) / args.at.ratio;
    const bool all = !args.at.has_index || visible <= sizes.top_k;
    chosen = all ? nullptr : args.at.chosen + std::size_t{row} * sizes.top_k;
    total = raw_count + (all ? visible : sizes.top_k);
  }
  __device__ const __half* key(std::uint32_t i) const {
    if (i >= raw_count) {
      const std::uint32_t b = i - raw_count;
      return compressed + std::size_t{chosen == nullptr ? b : chosen[b]} * dim;
    }
    const std::uint32_t position = raw_first + i;
    if (position >= first_position) return own + std::size_t{position - first_position} * dim;
    return ring + std::size_t{position % ring_rows} * dim;
  }
};

template <int kHeads, int kDim>
struct Tile {
  static constexpr std::uint32_t kPitch = kDim + kPad;            // halves
  static constexpr std::uint32_t kWeightPitch = kKeyPart + kPad;  // halves
  static constexpr std::uint32_t kScorePitch = kKeyPart + 4;      // floats
  __half keys[kKeyPart * kPitch];
  __half q[kHeads * kPitch];
  __half weights[kHeads * kWeightPitch];
  float scores[kHeads * kScorePitch];
  const __half* key[kKeyPart];
};

/// scores = q . keys, unscaled.
template <int kHeads, int kDim>
__device__ __forceinline__ void score(Tile<kHeads, kDim>& tile) {
  using T = Tile<kHeads, kDim>;
  constexpr int kTiles = kHeads / 16;                        // of heads
  constexpr int kKeysOfWarp = kKeyPart / (kWarps / kTiles);  // 8 or 32
  constexpr int kKeyTiles = kKeysOfWarp / 8;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int head0 = warp % kTiles * 16, key0 = warp / kTiles * kKeysOfWarp;
  float acc[kKeyTiles][4] = {};
  const __half* q = tile.q + (head0 + lane % 16) * T::kPitch + lane / 16 * 8;
#pragma unroll 4
  for (int d = 0; d < kDim; d += 32) {
    std::uint32_t a0[4], a1[4];
    load_matrices(a0, q + d);
    load_matrices(a1, q + d + 16);
#pragma unroll
    for (int k = 0; k < kKeyTiles; ++k) {
      std::uint32_t b[4];
      load_matrices(b, tile.keys + (key0 + 8 * k + lane % 8) * T::kPitch + d + lane / 8 * 8);
      multiply_add(acc[k], a0, b[0], b[1]);
      multiply_add(acc[k], a1, b[2], b[3]);
    }
  }
#pragma unroll
  for (int k = 0; k < kKeyTiles; ++k)
#pragma unroll
    for (int c = 0; c < 4; ++c)
      tile.scores[(head0 + lane / 4 + 8 * (c / 2)) * T::kScorePitch + key0 + 8 * k + lane % 4 * 2 +
                  c % 2] = acc[k][c];
}

/// out += weights * keys, for the warp's share of the dimensions.
template <int kHeads, int kDim>
__device__ __forceinline__ void accumulate(const Tile<kHeads, kDim>& tile, std::uint32_t heads,
                                           float* out) {
  using T = Tile<kHeads, kDim>;
  constexpr int kDims = kDim / static_cast<int>(kWarps), kDimTiles = kDims / 8;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int dim0 = warp * kDims;
#pragma unroll 1
  for (int head0 = 0; head0 < kHeads; head0 += 16) {
    float acc[kDimTiles][4] = {};
#pragma unroll
    for (int k = 0; k < static_cast<int>(kKeyPart); k += 16) {
      std::uint32_t a[4];
      load_matrices(a, tile.weights + (head0 + lane % 16) * T::kWeightPitch + k + lane / 16 * 8);
#pragma unroll
      for (int d = 0; d < kDimTiles; d += 2) {
        std::uint32_t b[4];
        load_matrices_transposed(b, tile.keys + (k + lane / 8 % 2 * 8 + lane % 8) * T::kPitch +
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
          *reinterpret_cast<float2*>(out + std::size_t{head} * kDim + dim0 + 8 * d + lane % 4 * 2) =
              make_float2(acc[d][2 * half], acc[d][2 * half + 1]);
      }
    }
  }
}

/// Block (part, row of the pass, heads / kHeads).
template <int kHeads, int kDim>
__global__ void __launch_bounds__(kThreads)
    attend_kernel(const __grid_constant__ AttentionArgs args) {
  extern __shared__ __align__(128) std::uint8_t base[];
  auto& tile = *reinterpret_cast<Tile<kHeads, kDim>*>(base);
  using T = Tile<kHeads, kDim>;
  let_successor_start();
  wait_for_predecessor();
  const Sizes& sizes = args.sizes;
  const std::uint32_t row = args.first_row + blockIdx.y;
  const KeyList list(args, row);
  const std::uint32_t first = blockIdx.x * kKeyPart;
  if (first >= list.total) return;
  const std::uint32_t count = min(kKeyPart, list.total - first);
  const std::uint32_t head0 = blockIdx.z * kHeads, heads = min(sizes.n_head - head0, kHeads + 0u);

  if (threadIdx.x < kKeyPart)
    tile.key[threadIdx.x] = threadIdx.x < count ? list.key(first + threadIdx.x) : nullptr;
  const __half* q = args.at.q + (std::size_t{row} * sizes.n_head + head0) * kDim;
  constexpr std::uint32_t kPieces = kDim / 8;
  const auto fetch = [&](__half* to, const __half* from) {
    if (from != nullptr)
      copy16_async(to, from);
    else
      *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
  };
  for (std::uint32_t i = threadIdx.x; i < kHeads * kPieces; i += kThreads) {
    const std::uint32_t head = i / kPieces, at = i % kPieces * 8;
    fetch(tile.q + head * T::kPitch + at,
          head < heads ? q + std::size_t{head} * kDim + at : nullptr);
  }
  __syncthreads();
  for (std::uint32_t i = threadIdx.x; i < kKeyPart * kPieces; i += kThreads) {
    const std::uint32_t k = i / kPieces, at = i % kPieces * 8;
    fetch(tile.keys + k * T::kPitch + at, tile.key[k] != nullptr ? tile.key[k] + at : nullptr);
  }
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  score<kHeads, kDim>(tile);
  __syncthreads();

  const std::size_t part = std::size_t{blockIdx.y} * args.at.parts + blockIdx.x;
  const float scale = 1.0f / sqrtf(static_cast<float>(kDim));
  const std::uint32_t lane = threadIdx.x % kWarp;
  for (std::uint32_t head = threadIdx.x / kWarp; head < kHeads; head += kWarps) {
    const float* scores = tile.scores + head * T::kScorePitch;
    const bool has0 = lane < count, has1 = lane + kWarp < count;
    const float s0 = has0 ? scores[lane] * scale : -3.4e38f;
    const float s1 = has1 ? scores[lane + kWarp] * scale : -3.4e38f;
    const float top = warp_max(fmaxf(s0, s1));
    const __half w0 = __float2half_rn(has0 ? expf(s0 - top) : 0.0f);
    const __half w1 = __float2half_rn(has1 ? expf(s1 - top) : 0.0f);
    const float sum = warp_sum(__half2float(w0) + __half2float(w1));
    tile.weights[head * T::kWeightPitch + lane] = w0;
    tile.weights[head * T::kWeightPitch + lane + kWarp] = w1;
    if (lane == 0 && head < heads) {
      args.at.part_max[part * sizes.n_head + head0 + head] = top;
      args.at.part_sum[part * sizes.n_head + head0 + head] = sum;
    }
  }
  __syncthreads();
  accumulate<kHeads, kDim>(tile, heads, args.at.part_acc + (part * sizes.n_head + head0) * kDim);
}

/// Those of a segment's raw rows that later calls can still see.
__device__ void remember(const AttentionArgs& args, std::uint32_t row) {
  const RowEntry entry = args.rows[row];
  const SegmentEntry segment = args.segments[entry.segment];
  const CacheLayer at = reinterpret_cast<const CacheLayer*>(segment.cache)[args.at.layer];
  if (segment.first_row + segment.count - row > at.ring_rows) return;
  const std::uint32_t dim = args.sizes.head_dim;
  auto* to = reinterpret_cast<__half*>(segment.cache + at.raw) +
             std::size_t{entry.position % at.ring_rows} * dim;
  const __half* from = args.at.kv + std::size_t{row} * dim;
  for (std::uint32_t i = 4 * threadIdx.x; i < dim; i += 4 * blockDim.x)
    *reinterpret_cast<uint2*>(to + i) = *reinterpret_cast<const uint2*>(from + i);
}

/// Block (head, row): joins the parts; four dimensions a thread. Blocks behind the last head
/// remember raw rows.
__global__ void join_kernel(const __grid_constant__ AttentionArgs args) {
  let_successor_start();
  wait_for_predecessor();
  const Sizes& sizes = args.sizes;
  const std::uint32_t head = blockIdx.x;
  if (head >= sizes.n_head) return remember(args, blockIdx.y);
  if (blockIdx.y >= args.n) return;
  const std::uint32_t row = args.first_row + blockIdx.y;
  const KeyList list(args, row);
  const std::uint32_t parts = (list.total + kKeyPart - 1) / kKeyPart;
  const std::uint32_t dim = sizes.head_dim, d = 4 * threadIdx.x;
  float top = args.at.sinks[head], sum = 1;
  float acc[4] = {};
#pragma unroll 4
  for (std::uint32_t p = 0; p < parts; ++p) {
    const std::size_t at = (std::size_t{blockIdx.y} * args.at.parts + p) * sizes.n_head + head;
    const float part_top = args.at.part_max[at], part_sum = args.at.part_sum[at];
    const float4 v = *reinterpret_cast<const float4*>(args.at.part_acc + at * dim + d);
    const float new_top = fmaxf(top, part_top);
    const float keep = expf(top - new_top), add = expf(part_top - new_top);
    top = new_top;
    sum = __fmaf_rn(sum, keep, __fmul_rn(part_sum, add));
    const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[i] = __fmaf_rn(acc[i], keep, __fmul_rn(values[i], add));
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) acc[i] /= sum;
  const std::uint32_t coded = dim - sizes.rope_dim;
  if (d >= coded) {
    const float* angles = args.angles +
                          (std::size_t{row} * 4 + (args.at.ratio == 0 ? 0 : 1)) * sizes.rope_dim +
                          (d - coded);
    turn(acc[0], acc[1], angles[0], -angles[1]);
    turn(acc[2], acc[3], angles[2], -angles[3]);
  }
  auto* out =
      reinterpret_cast<__half2*>(args.at.out + (std::size_t{row} * sizes.n_head + head) * dim + d);
  out[0] = __floats2half2_rn(acc[0], acc[1]);
  out[1] = __floats2half2_rn(acc[2], acc[3]);
}

template <int kHeads, int kDim>
void launch_attend(Launcher& launcher, const AttentionArgs& args) {
  launch(launcher, attend_kernel<kHeads, kDim>,
         dim3(args.at.parts, args.n, (args.sizes.n_head + kHeads - 1) / kHeads), kThreads,
         sizeof(Tile<kHeads, kDim>), 1, args);
}

}  // namespace

bool attention_supports(const Sizes& sizes) {
  return sizes.head_dim == 512 || sizes.head_dim == 128;
}

void attend(Launcher& launcher, const Sizes& sizes, const Attention& attention,
            const RowEntry* rows, const SegmentEntry* segments, std::uint32_t first_row,
            std::uint32_t n, std::uint32_t rows_of_call, const float* angles) {
  const AttentionArgs args{sizes, attention, rows, segments, angles, first_row, n};
  // Few rows: more blocks. Many: a block's keys serve more heads.
  const bool few = n * attention.parts < 128 || !fits_shared(sizeof(Tile<64, 512>));
  if (sizes.head_dim == 128)
    launch_attend<16, 128>(launcher, args);
  else if (few)
    launch_attend<16, 512>(launcher, args);
  else
    launch_attend<64, 512>(launcher, args);
  const bool last = first_row + n == rows_of_call;
  launch(launcher, join_kernel, dim3(sizes.n_head + (last ? 1 : 0), last ? rows_of_call : n),
         sizes.head_dim / 4, 0, 1, args);
}

}  // namespace ds4::cuda
