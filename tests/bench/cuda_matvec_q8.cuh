#pragma once
// One row of activations times weights, tried in another way than products.cu's: little code, every
// byte asked for at once and as early as can be, and dp4a.
//
// A warp has a few thousand bytes of weights that lie in a row in memory. One lane has the copy
// engine bring them to shared memory, if they are known, before the predecessor has ended. There
// they are read in whole blocks, which are an odd number of words in Q8_0 (two blocks), IQ2_XXS
// (two) and Q2_K, so that 32 lanes with a block each never meet in a bank. Sums are those of
// quantised.cuh in its order: cuda_matvec_bench.cu compares bits.
#include "engine/cuda/kernels/integer_formats.cuh"
#include "tests/bench/cuda_matvec_variants.h"

namespace ds4::bench {

using namespace ds4::cuda;

// Copies --------------------------------------------------------------------------------------

/// By one lane, before the first copy.
__device__ __forceinline__ void expect_bytes(std::uint64_t& barrier, std::uint32_t bytes) {
  const std::uint32_t at = shared_address(&barrier);
  asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(at) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
               : "memory");
}
/// Addresses and sizes are multiples of 16 bytes.
__device__ __forceinline__ void bulk_copy(void* to, const void* from, std::uint32_t bytes,
                                          std::uint64_t& barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(&barrier))
      : "memory");
}
/// By a whole warp.
__device__ __forceinline__ void wait_for_bytes(std::uint64_t& barrier) {
  __syncwarp();
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared.b64 done, [%0], 0;\n"
      "@!done bra again;\n"
      "}" ::"r"(shared_address(&barrier))
      : "memory");
}
__device__ __forceinline__ uint4 load_once(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
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
__device__ __forceinline__ float half_bits(std::uint32_t low) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(low)));
}

/// kChunks chunks of one warp, which meet the same columns of the activations.
template <int kChunks, bool kBulk>
class Q8Chunks {
 public:
  static constexpr std::uint32_t kBytes = kChunks * kChunkBytes;

  /// address_of(c): of chunk c.
  template <typename AddressOf>
  __device__ __forceinline__ void start(std::uint8_t* place, std::uint64_t& barrier,
                                        const AddressOf& address_of) {
    const std::uint32_t lane = threadIdx.x % kWarp;
    words_ = reinterpret_cast<std::uint32_t*>(place);
    if constexpr (kBulk) {
      if (lane != 0) return;
      expect_bytes(barrier, kBytes);
      for (int c = 0; c < kChunks; ++c)
        bulk_copy(place + c * kChunkBytes, address_of(c), kChunkBytes, barrier);
    } else {
#pragma unroll
      for (std::uint32_t i = 0; i < kPieces; ++i) {
        const std::uint32_t at = 16 * (kWarp * i + lane);
        piece_[i] = load_once(address_of(at / kChunkBytes) + at % kChunkBytes);
      }
    }
  }
  /// `column`: the first of the lane's 64. Leaves the sums of the chunks' segments at `sums`
  /// [kChunks][kChunkSegments].
  __device__ __forceinline__ void multiply(std::uint64_t& barrier, const QuantisedRows& x,
                                           std::uint32_t column, float* sums) {
    constexpr std::uint32_t kWords = kChunkBytes / 4, kPitch = kSegment / 32 + 1;
    const std::uint32_t lane = threadIdx.x % kWarp;
    std::uint32_t hi[kPairWords], lo[kPairWords];
    load_pair(x.hi + column, hi);
    load_pair(x.lo + column, lo);
    const float2 x_scale = *reinterpret_cast<const float2*>(x.scale + column / kQuantColumns);
    if constexpr (kBulk) {
      wait_for_bytes(barrier);
    } else {
#pragma unroll
      for (std::uint32_t i = 0; i < kPieces; ++i)
        reinterpret_cast<uint4*>(words_)[kWarp * i + lane] = piece_[i];
      __syncwarp();
    }
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
        h[i > 8] = __dp4a(static_cast<int>(word), static_cast<int>(hi[i]), h[i > 8]);
        l[i > 8] = __dp4a(static_cast<int>(word), static_cast<int>(lo[i]), l[i > 8]);
      }
      __syncwarp();  // the chunk's place takes what its blocks add
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
      for (std::uint32_t b = 0; b < kSegment / 32; ++b) acc = __fmaf_rn(term[b].x, term[b].y, acc);
      sums[i] = acc;
    }
  }

 private:
  static constexpr std::uint32_t kPieces = kBulk ? 1 : kBytes / 16 / kWarp;
  static_assert(kBulk || kBytes % (16 * kWarp) == 0);

  std::uint32_t* words_;
  uint4 piece_[kPieces];
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

}  // namespace ds4::bench
