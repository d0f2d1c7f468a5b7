#pragma once
// One row of activations times weights. There is next to no arithmetic for a byte of weights, so
// what counts is how many bytes are on their way, how soon, and how few instructions meet them.
//
// A warp has a few thousand bytes of weights, whole rows or pieces of them that are one piece in
// memory, and asks for all of them at once: one lane has the copy engine bring them to shared
// memory, before the predecessor has ended if the matrix is known by then (a routed expert's is
// not). There is no ring (unit_ring.cuh) to turn: while a warp multiplies, those of other blocks
// copy. From shared memory every lane takes blocks of its own and multiplies by dp4a. What a lane
// takes is an odd number of words, 17 in Q8_0 (two blocks), 33 in IQ2_XXS (two) and 21 in Q2_K, so
// that 32 lanes, one behind the other, never meet in a bank. Sums are those of quantised.cuh in its
// order.
#include "engine/cuda/kernels/integer_formats.cuh"
#include "engine/cuda/kernels/pipeline.cuh"

namespace ds4::cuda {

/// By a whole warp, one of whose lanes has called expect().
__device__ __forceinline__ void wait_for_bytes(PhaseBarrier& barrier, std::uint32_t phase = 0) {
  __syncwarp();
  barrier.wait(phase);
}
__device__ __forceinline__ float half_bits(std::uint32_t low) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(low)));
}
__device__ __forceinline__ int multiply_four(std::uint32_t w, std::uint32_t x, int sum) {
  return __dp4a(static_cast<int>(w), static_cast<int>(x), sum);
}

// Q8_0 ----------------------------------------------------------------------------------------

inline constexpr std::uint32_t kChunkCols = 2048, kChunkBytes = kChunkCols / 32 * 34;
inline constexpr std::uint32_t kChunkSegments = kChunkCols / kSegment;
inline constexpr std::uint32_t kPairWords = 17;  // of two blocks, whose columns are a lane's

/// 64 columns of a plane, moved to where the values of two blocks lie, with zeros where scales do.
__device__ __forceinline__ void load_pair(const std::int8_t* plane,
                                          std::uint32_t (&x)[kPairWords]) {
  std::uint32_t in[16];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint4 v = reinterpret_cast<const uint4*>(plane)[i];
    in[4 * i] = v.x, in[4 * i + 1] = v.y, in[4 * i + 2] = v.z, in[4 * i + 3] = v.w;
  }
  x[0] = in[0] << 16;
#pragma unroll
  for (int i = 1; i < 8; ++i) x[i] = __byte_perm(in[i - 1], in[i], 0x5432);
  x[8] = in[7] >> 16;
#pragma unroll
  for (int i = 9; i < 17; ++i) x[i] = in[i - 1];
}

/// A warp's kChunks chunks of 2,048 columns, which meet the same columns of the activations.
template <int kChunks>
class Q8Chunks {
 public:
  static constexpr std::uint32_t kBytes = kChunks * kChunkBytes;

  /// Starts the copies to `place` [kBytes]. address_of(c): of chunk c.
  template <typename AddressOf>
  __device__ __forceinline__ void start(std::uint8_t* place, PhaseBarrier& barrier,
                                        const AddressOf& address_of) {
    words_ = reinterpret_cast<std::uint32_t*>(place);
    if (threadIdx.x % kWarp != 0) return;
    barrier.expect(kBytes);
    for (int c = 0; c < kChunks; ++c)
      barrier.bulk_copy(place + c * kChunkBytes, address_of(c), kChunkBytes);
  }
  /// Those that somebody has started to copy to `place`.
  __device__ __forceinline__ void find(std::uint8_t* place) {
    words_ = reinterpret_cast<std::uint32_t*>(place);
  }
  /// `column`: the first of the lane's 64. Leaves the sums of the chunks' segments at `sums`
  /// [kChunks][kChunkSegments].
  __device__ __forceinline__ void multiply(PhaseBarrier& barrier, const QuantisedRows& x,
                                           std::uint32_t column, float* sums) {
    constexpr std::uint32_t kWords = kChunkBytes / 4, kPitch = kSegment / 32 + 1;
    const std::uint32_t lane = threadIdx.x % kWarp;
    std::uint32_t hi[kPairWords], lo[kPairWords];
    load_pair(x.hi + column, hi);
    load_pair(x.lo + column, lo);
    const float2 x_scale = *reinterpret_cast<const float2*>(x.scale + column / kQuantColumns);
    wait_for_bytes(barrier);
#pragma unroll 1
    for (int c = 0; c < kChunks; ++c) {
      const std::uint32_t* w = words_ + c * kWords + kPairWords * lane;
      int h[2] = {}, l[2] = {};
      std::uint32_t first = 0, middle = 0;
#pragma unroll
      for (int i = 0; i < static_cast<int>(kPairWords); ++i) {
        const std::uint32_t word = w[i];
        if (i == 0) first = word;
        if (i == 8) middle = word;
        h[i > 8] = multiply_four(word, hi[i], h[i > 8]);
        l[i > 8] = multiply_four(word, lo[i], l[i > 8]);
      }
      __syncwarp();  // the chunk's place takes the factors of add_block()
      auto* term =
          reinterpret_cast<float2*>(words_ + c * kWords) + lane / 8 * kPitch + 2 * (lane % 8);
      term[0] = {plane_sum(h[0], l[0]), __fmul_rn(half_bits(first & 0xFFFF), x_scale.x)};
      term[1] = {plane_sum(h[1], l[1]), __fmul_rn(half_bits(middle >> 16), x_scale.y)};
    }
    __syncwarp();
    for (std::uint32_t i = lane; i < kChunks * kChunkSegments; i += kWarp) {
      const auto* term = reinterpret_cast<const float2*>(words_ + i / kChunkSegments * kWords) +
                         i % kChunkSegments * kPitch;
      float acc = 0;
#pragma unroll
      for (std::uint32_t b = 0; b < kSegment / 32; ++b)
        acc = __fmaf_rn(term[b].x, term[b].y, acc);  // add_block()
      sums[i] = acc;
    }
  }

 private:
  std::uint32_t* words_;
};

/// How a block's warps share rows of `cols` columns: as many warps as a row has chunks, or as many
/// rows as a chunk has.
struct Q8Split {
  std::uint32_t cols;
  __host__ __device__ std::uint32_t across() const {
    return cols > kChunkCols ? cols / kChunkCols : 1;
  }
  __host__ __device__ std::uint32_t rows_of_chunk() const {
    return cols < kChunkCols ? kChunkCols / cols : 1;
  }
  /// The segments of row `r` of chunks that begin at `sums`, [warp][chunks][segments], in order.
  template <int kChunks>
  __device__ float total(const float* sums, std::uint32_t r) const {
    const std::uint32_t chunk = r / rows_of_chunk(), begin = r % rows_of_chunk() * cols / kSegment;
    float total = 0;
    for (std::uint32_t s = 0; s < cols / kSegment; ++s) {
      const std::uint32_t at = begin + s;
      total = __fadd_rn(
          total,
          sums[(at / kChunkSegments * kChunks + chunk) * kChunkSegments + at % kChunkSegments]);
    }
    return total;
  }
};

// Routed experts ------------------------------------------------------------------------------

inline constexpr std::uint32_t kUnitRows = 4;  // that a warp computes together, eight lanes each

/// A row of activations in kParts parts of kCols columns in shared memory, with room between them
/// so that lanes of different parts do not meet in a bank.
template <std::uint32_t kParts, std::uint32_t kCols>
struct PaddedRow {
  static constexpr std::uint32_t kPitch = kCols + 16;
  std::int8_t hi[kParts * kPitch], lo[kParts * kPitch];
  float scale[kParts][kCols / 32 + 1];

  /// By all threads of a block; they must meet before the row is read.
  __device__ void fill(const QuantisedRows& x) {
    for (std::uint32_t i = threadIdx.x; i < kParts * kCols / 16; i += blockDim.x) {
      const std::uint32_t to = 16 * i / kCols * kPitch + 16 * i % kCols;
      *reinterpret_cast<uint4*>(hi + to) = reinterpret_cast<const uint4*>(x.hi)[i];
      *reinterpret_cast<uint4*>(lo + to) = reinterpret_cast<const uint4*>(x.lo)[i];
    }
    for (std::uint32_t i = threadIdx.x; i < kParts * kCols / 32; i += blockDim.x)
      scale[i / (kCols / 32)][i % (kCols / 32)] = x.scale[i];
  }
};
/// 32 columns.
__device__ __forceinline__ void load_group(const std::int8_t* plane, std::uint32_t (&x)[8]) {
  const uint4 a = reinterpret_cast<const uint4*>(plane)[0];
  const uint4 b = reinterpret_cast<const uint4*>(plane)[1];
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}

/// The expert of an entry, by a whole warp.
__device__ __forceinline__ std::uint32_t expert_of(const ExpertProducts& e, std::uint32_t entry) {
  const std::uint32_t count = *e.groups.count;
  // A group for each entry, unless two rows share an expert or a row has one twice.
  if (count == e.rows * e.used) return e.groups.expert[entry];
  std::uint32_t group = 0;
  for (std::uint32_t i = threadIdx.x % kWarp; i < count; i += kWarp)
    if (e.groups.begin[i] <= entry) group = i;
  return e.groups.expert[__reduce_max_sync(kFullWarp, group)];
}

// What the host asks --------------------------------------------------------------------------

/// few_rows.h says why.
inline bool has_few_entries(const ExpertProducts& e) {
  return e.rows == 1 || e.rows * e.used <= e.n_expert / 2;
}
/// `bytes`: the shared memory of sixteen warps.
inline bool one_row_has_room(const Launcher& launcher, std::size_t bytes) {
  return launcher.device_weights && fits_shared(bytes);
}
inline bool one_row_reads(const DeviceMatrix& weights, TensorType type) {
  return weights.type == static_cast<std::uint32_t>(type) &&
         reinterpret_cast<std::uintptr_t>(weights.data) % 16 == 0;
}

}  // namespace ds4::cuda
