#pragma once
// Block formats as integers: eight weights at a time, as the bytes that the matrix instruction
// takes straight from the block. quantised.cuh says what is computed from them.
//
// Two ways lead through a block. lane_weights() serves any number of rows: four lanes share a row's
// 32 columns, lane t having 8t..8t+7, and activations are permuted alike. own_weights() serves a
// single row of activations, for which six of the instruction's eight columns would be empty: there
// lane t has all 32 columns of group t of four, gives eight of them at a time, and every group has
// two columns of the result to itself (multiply.cuh). No lane then does what another one does.
// Where a call has a single row, one_row.cuh goes a third way if sizes allow it: without the matrix
// instruction.
//
// Blocks lie in shared memory as in formats.cuh: `row` has the alignment that it has in the file, 4
// for Q8_0, Q4_K and Q2_K, 2 for IQ2_XXS. `chunk`, `block` and `quad` count 32, 256 and 128 columns
// from a unit's start.
#include "engine/cuda/kernels/quantised.cuh"
#include "engine/cuda/kernels/unit_ring.cuh"

namespace ds4::cuda {

// A vector of IQ2_XXS as nibbles: which of the magnitudes 8, 25 and 43, and 4 more if it is
// negative.
/// Of an entry of the grid, the magnitudes.
__device__ __forceinline__ std::uint32_t magnitude_nibbles(std::uint32_t n) {
  n = (n | n << 8) & 0x00FF00FFu;
  n = (n | n << 4) & 0x0F0F0F0Fu;
  return (n | n << 2) & 0x33333333u;
}
/// Of seven signs, of which the eighth follows.
__device__ __forceinline__ std::uint32_t sign_nibbles(std::uint32_t pattern) {
  std::uint32_t n = pattern | (__popc(pattern) & 1) << 7;
  n = (n | n << 12) & 0x000F000Fu;
  n = (n | n << 6) & 0x03030303u;
  return ((n | n << 3) & 0x11111111u) << 2;
}
/// What a nibble stands for, byte by byte.
inline constexpr std::uint32_t kIq2Plus = 0x002B1908u, kIq2Minus = 0x00D5E7F8u;

/// What IQ2_XXS looks up. With a copy for each lane no two lanes ever meet in a bank.
template <std::uint32_t kCount>
struct SignedVectors {
  std::uint32_t magnitudes[kIq2Vectors][kCount];
  std::uint32_t signs[128][kCount];

  /// By all threads of a block; they must meet before the tables are read.
  __device__ void fill(const std::uint16_t* grid) {
    for (std::uint32_t i = threadIdx.x; i < kIq2Vectors * kCount; i += blockDim.x) {
      magnitudes[0][i] = magnitude_nibbles(grid[i / kCount]);
    }
    for (std::uint32_t i = threadIdx.x; i < 128 * kCount; i += blockDim.x) {
      signs[0][i] = sign_nibbles(i / kCount);
    }
  }
  /// Eight weights: the number of their vector and the pattern of their signs, each in bits 7.. .
  __device__ __forceinline__ uint2 weights(std::uint32_t vector_at, std::uint32_t signs_at) const {
    return signed_bytes(look<7, 255>(magnitudes[0], vector_at) | look<7, 127>(signs[0], signs_at));
  }
  /// Vector kVector of a group, `q` being its eight bytes.
  template <std::uint32_t kVector>
  __device__ __forceinline__ uint2 vector(const uint2& q) const {
    return signed_bytes(look<8 * kVector, 255>(magnitudes[0], q.x) |
                        look<7 * kVector, 127>(signs[0], q.y));
  }

 private:
  __device__ __forceinline__ static uint2 signed_bytes(std::uint32_t nibbles) {
    return make_uint2(__byte_perm(kIq2Plus, kIq2Minus, nibbles),
                      __byte_perm(kIq2Plus, kIq2Minus, nibbles >> 16));
  }
  /// The entry whose number stands in bits kFrom.. of `word`: a mask, and a shift that also adds.
  template <std::uint32_t kFrom, std::uint32_t kMost>
  __device__ __forceinline__ static std::uint32_t look(const std::uint32_t* table,
                                                       std::uint32_t word) {
    constexpr std::uint32_t kSize = 4 * kCount;
    const std::uint32_t number = word & kMost << kFrom;
    const std::uint32_t offset =
        kSize >= 1u << kFrom ? number * (kSize >> kFrom) : number / ((1u << kFrom) / kSize);
    const auto* lane = reinterpret_cast<const char*>(table + threadIdx.x % kCount);
    return *reinterpret_cast<const std::uint32_t*>(lane + offset);
  }
};

__device__ __forceinline__ std::uint32_t load_word(const std::uint8_t* p) {
  return *reinterpret_cast<const std::uint32_t*>(p);
}
/// Eight bytes from an even address, by aligned words.
__device__ __forceinline__ uint2 load8_even(const std::uint8_t* p) {
  const auto skew = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(p)) & 2;
  const auto* words = reinterpret_cast<const std::uint32_t*>(p - skew);
  const std::uint32_t shift = 8 * skew;
  return {__funnelshift_r(words[0], words[1], shift), __funnelshift_r(words[1], words[2], shift)};
}

struct IntegerQ8_0 {
  static constexpr bool kMinimums = false, kOwn = false;
  static constexpr UnitFormat kUnit = unit_format(TensorType::kQ8_0);
  __device__ static float scale(const std::uint8_t* row, std::uint32_t chunk) {
    return w_scale_q8_0(load_half(row + 34 * chunk));
  }
  template <class Vectors>
  __device__ static uint2 lane_weights(const std::uint8_t* row, std::uint32_t chunk,
                                       std::uint32_t t, const Vectors*) {
    // Even blocks begin at a multiple of four bytes, and their values two bytes later.
    const std::uint8_t* block = row + 34 * chunk + 8 * t;
    if (chunk % 2 != 0) return {load_word(block + 2), load_word(block + 6)};
    const std::uint32_t w0 = load_word(block), w1 = load_word(block + 4), w2 = load_word(block + 8);
    return {__byte_perm(w0, w1, 0x5432), __byte_perm(w1, w2, 0x5432)};
  }
};

struct IntegerQ4_K {
  static constexpr bool kMinimums = true, kOwn = false;
  static constexpr UnitFormat kUnit = unit_format(TensorType::kQ4_K);
  /// engine/quant/q4_k.h says where the scales and minimums of the eight groups lie.
  __device__ static float scale(const std::uint8_t* row, std::uint32_t chunk) {
    const std::uint8_t* block = row + 144 * (chunk / 8);
    const std::uint32_t group = chunk % 8;
    const std::uint8_t* s = block + 4;
    const std::uint32_t scale =
        group < 4 ? s[group] & 63u : (s[group + 4] & 15u) | (s[group - 4] >> 6 << 4);
    return w_scale_q4_k(load_half(block), scale);
  }
  template <class Vectors>
  __device__ static uint2 lane_weights(const std::uint8_t* row, std::uint32_t chunk,
                                       std::uint32_t t, const Vectors*) {
    const std::uint32_t group = chunk % 8;
    const std::uint8_t* q = row + 144 * (chunk / 8) + 16 + 32 * (group / 2) + 8 * t;
    return {load_word(q) >> 4 * (group % 2) & 0x0F0F0F0Fu,
            load_word(q + 4) >> 4 * (group % 2) & 0x0F0F0F0Fu};
  }
  /// Those of sums 4t..4t+3 of the block: groups 2t and 2t + 1, each twice.
  __device__ static std::uint32_t minimums(const std::uint8_t* row, std::uint32_t block,
                                           std::uint32_t t) {
    const std::uint8_t* s = row + 144 * block + 4;
    const std::uint32_t low = load_word(s + 4), high = load_word(s + 8);
    const std::uint32_t four =
        t < 2 ? low & 0x3F3F3F3Fu : (high >> 4 & 0x0F0F0F0Fu) | (low >> 2 & 0x30303030u);
    return __byte_perm(four, 0, t % 2 == 0 ? 0x1100 : 0x3322);
  }
  __device__ static float dmin(const std::uint8_t* row, std::uint32_t block) {
    return __half2float(load_half(row + 144 * block + 2));
  }
};

struct IntegerQ2_K {
  static constexpr bool kMinimums = true, kOwn = true;
  static constexpr UnitFormat kUnit = unit_format(TensorType::kQ2_K);
  __device__ static float scale(const std::uint8_t* row, std::uint32_t chunk) {
    return w_scale_q2_k(load_half(row + 84 * (chunk / 8) + 80));
  }
  template <class Vectors>
  __device__ static uint2 lane_weights(const std::uint8_t* row, std::uint32_t chunk,
                                       std::uint32_t t, const Vectors*) {
    const std::uint8_t* block = row + 84 * (chunk / 8);
    const std::uint32_t group = chunk % 8, times = block[2 * group + t / 2] & 15u;
    const std::uint8_t* q = block + 16 + 32 * (group / 4) + 8 * t;
    return {(load_word(q) >> 2 * (group % 4) & 0x03030303u) * times,
            (load_word(q + 4) >> 2 * (group % 4) & 0x03030303u) * times};
  }
  /// Of group 4 quad + t, eight columns at a time; returns its scale.
  template <class Vectors>
  __device__ static float own_weights(const std::uint8_t* row, std::uint32_t quad, std::uint32_t t,
                                      const Vectors*, uint2 (&w)[4]) {
    const std::uint8_t* block = row + 84 * (quad / 2);
    const std::uint32_t half = quad % 2;
    const std::uint32_t scales = *reinterpret_cast<const std::uint16_t*>(block + 8 * half + 2 * t);
#pragma unroll
    for (std::uint32_t m = 0; m < 4; ++m) {
      const std::uint8_t* q = block + 16 + 32 * half + 8 * m;
      const std::uint32_t times = scales >> 8 * (m / 2) & 15;
      w[m] = make_uint2((load_word(q) >> 2 * t & 0x03030303u) * times,
                        (load_word(q + 4) >> 2 * t & 0x03030303u) * times);
    }
    return w_scale_q2_k(load_half(block + 80));
  }
  /// Those of sums 4t..4t+3 of the block.
  __device__ static std::uint32_t minimums(const std::uint8_t* row, std::uint32_t block,
                                           std::uint32_t t) {
    return load_word(row + 84 * block + 4 * t) >> 4 & 0x0F0F0F0Fu;
  }
  __device__ static float dmin(const std::uint8_t* row, std::uint32_t block) {
    return __half2float(load_half(row + 84 * block + 82));
  }
};

struct IntegerIQ2_XXS {
  static constexpr bool kMinimums = false, kOwn = true;
  static constexpr UnitFormat kUnit = unit_format(TensorType::kIQ2_XXS);
  __device__ static float scale(const std::uint8_t* row, std::uint32_t chunk) {
    const std::uint8_t* block = row + 66 * (chunk / 8);
    const std::uint32_t top =
        *reinterpret_cast<const std::uint16_t*>(block + 2 + 8 * (chunk % 8) + 6);
    return w_scale_iq2_xxs(__half2float(load_half(block)), top >> 12);
  }
  template <class Vectors>
  __device__ static uint2 lane_weights(const std::uint8_t* row, std::uint32_t chunk,
                                       std::uint32_t t, const Vectors* vectors) {
    const uint2 q = load8_even(row + 66 * (chunk / 8) + 2 + 8 * (chunk % 8));
    return vectors->weights(__funnelshift_l(q.x, q.x, 7 + 24 * t),
                            __funnelshift_l(q.y, q.y, 7 + 25 * t));
  }
  template <class Vectors>
  __device__ static float own_weights(const std::uint8_t* row, std::uint32_t quad, std::uint32_t t,
                                      const Vectors* vectors, uint2 (&w)[4]) {
    const std::uint8_t* block = row + 66 * (quad / 2);
    const uint2 q = load8_even(block + 2 + 32 * (quad % 2) + 8 * t);
    w[0] = vectors->template vector<0>(q), w[1] = vectors->template vector<1>(q);
    w[2] = vectors->template vector<2>(q), w[3] = vectors->template vector<3>(q);
    return w_scale_iq2_xxs(__half2float(load_half(block)), q.y >> 28);
  }
};

}  // namespace ds4::cuda
