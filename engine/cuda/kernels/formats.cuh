#pragma once
// Block formats on the GPU: eight weights at a time, as four pairs of halves. So products take the
// formats that are no small integers (those are in integer_formats.cuh), and the embedding all.
//
// decode8() gives one lane weights 8t..8t+7 of a chunk of 32 columns: of a row's four lanes, lane t
// so holds what two matrix instructions of 16 columns need. Which weight stands where in them does
// not matter as long as activations are permuted alike, and these are: lane t loads activations
// 8t..8t+7, which are 16 bytes in a row.
//
// A weight becomes a half: scale times integer, rounded once or twice (2^-11). engine/quant defines
// the formats; tests/engine/cuda compares.
//
// Blocks are read from shared memory, where whole 16-byte pieces were copied, so `row` has the
// alignment that it has in the file: 16 bytes for floats, 4 for Q8_0, Q4_K and Q2_K (the loader
// sees to it), 2 for IQ2_XXS, none for MXFP4. Chunks count from the start of a whole block, of 64
// columns for Q8_0.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "engine/cuda/kernels/common.cuh"
#include "engine/gguf/tensor_type.h"

namespace ds4::cuda {

using Half8 = std::uint32_t[4];

/// IQ2_XXS: for each vector of the grid, what makes its four pairs of magnitudes out of the bytes
/// of the halves 8, 25 and 43. (The pairs themselves would be twice the bytes, and random places in
/// shared memory are what this format waits for.)
inline constexpr int kIq2Vectors = 256;
struct Iq2Table {
  uint2 selectors[kIq2Vectors];

  /// By all threads of a block; they must meet before the table is read.
  __device__ void fill(const std::uint16_t* grid) {
    for (int v = threadIdx.x; v < kIq2Vectors; v += blockDim.x) {
      const std::uint32_t code = grid[v];
      const auto selector = [&](std::uint32_t pair) {
        const std::uint32_t a = code >> 4 * pair & 3, b = code >> (4 * pair + 2) & 3;
        return a | (a + 4) << 4 | b << 8 | (b + 4) << 12;
      };
      selectors[v] = make_uint2(selector(0) | selector(1) << 16, selector(2) | selector(3) << 16);
    }
  }
  __device__ void magnitudes(std::uint32_t v, Half8& w) const {
    constexpr std::uint32_t kLowBytes = 0x00604000u, kHighBytes = 0x00514E48u;
    const uint2 s = selectors[v];
    w[0] = __byte_perm(kLowBytes, kHighBytes, s.x);
    w[1] = __byte_perm(kLowBytes, kHighBytes, s.x >> 16);
    w[2] = __byte_perm(kLowBytes, kHighBytes, s.y);
    w[3] = __byte_perm(kLowBytes, kHighBytes, s.y >> 16);
  }
};

/// Eight bytes from any address, by aligned words.
__device__ __forceinline__ uint2 load8(const std::uint8_t* p) {
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  const auto* words = reinterpret_cast<const std::uint32_t*>(address & ~std::uintptr_t{3});
  const auto shift = static_cast<std::uint32_t>(address & 3) * 8;
  const std::uint32_t w0 = words[0], w1 = words[1];
  const std::uint32_t w2 = shift != 0 ? words[2] : 0;
  return {__funnelshift_r(w0, w1, shift), __funnelshift_r(w1, w2, shift)};
}
__device__ __forceinline__ __half load_half(const std::uint8_t* p) {
  return *reinterpret_cast<const __half*>(p);
}

/// Four bytes (0..255 each) as halves 1024 + byte.
__device__ __forceinline__ void bytes_to_halves(std::uint32_t four, __half2& low, __half2& high) {
  low = as_half2(__byte_perm(four, 0x64646464u, 0x4140));
  high = as_half2(__byte_perm(four, 0x64646464u, 0x4342));
}
__device__ __forceinline__ __half2 both(float x) {
  return __float2half2_rn(x);
}
/// A small integer, twice.
__device__ __forceinline__ __half2 both_of(std::uint32_t n) {
  return __hsub2(as_half2(n * 0x00010001u | 0x64006400u), as_half2(0x64006400u));
}
__device__ __forceinline__ uint2 load8_by_words(const std::uint8_t* p) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(p);
  return {words[0], words[1]};
}

struct FormatF16 {
  __device__ static void decode8(const std::uint8_t* row, std::uint32_t chunk, std::uint32_t t,
                                 const Iq2Table*, Half8& w) {
    const uint4 v = *reinterpret_cast<const uint4*>(row + 64 * chunk + 16 * t);
    w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
  }
};

struct FormatBF16 {
  __device__ static void decode8(const std::uint8_t* row, std::uint32_t chunk, std::uint32_t t,
                                 const Iq2Table*, Half8& w) {
    const uint4 v = *reinterpret_cast<const uint4*>(row + 64 * chunk + 16 * t);
    const std::uint32_t in[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i)
      w[i] = bits(
          __floats2half2_rn(__uint_as_float(in[i] << 16), __uint_as_float(in[i] & 0xFFFF0000u)));
  }
};

struct FormatF32 {
  __device__ static void decode8(const std::uint8_t* row, std::uint32_t chunk, std::uint32_t t,
                                 const Iq2Table*, Half8& w) {
    const auto* v = reinterpret_cast<const float4*>(row + 128 * chunk + 32 * t);
    const float4 a = v[0], b = v[1];
    w[0] = bits(__floats2half2_rn(a.x, a.y));
    w[1] = bits(__floats2half2_rn(a.z, a.w));
    w[2] = bits(__floats2half2_rn(b.x, b.y));
    w[3] = bits(__floats2half2_rn(b.z, b.w));
  }
};

struct FormatQ8_0 {
  __device__ static void decode8(const std::uint8_t* row, std::uint32_t chunk, std::uint32_t t,
                                 const Iq2Table*, Half8& w) {
    const std::uint8_t* block = row + 34 * chunk;
    const __half2 scale = __half2half2(load_half(block));
    // Even blocks begin at a multiple of four bytes, and their values two bytes later.
    uint2 q;
    if (chunk % 2 == 0) {
      const auto* words = reinterpret_cast<const std::uint32_t*>(block + 8 * t);
      const std::uint32_t w0 = words[0], w1 = words[1], w2 = words[2];
      q = {__byte_perm(w0, w1, 0x5432), __byte_perm(w1, w2, 0x5432)};
    } else {
      const auto* words = reinterpret_cast<const std::uint32_t*>(block + 2 + 8 * t);
      q = {words[0], words[1]};
    }
    const __half2 offset = both(1024 + 128);
    __half2 v[4];
    bytes_to_halves(q.x ^ 0x80808080u, v[0], v[1]);
    bytes_to_halves(q.y ^ 0x80808080u, v[2], v[3]);
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = bits(__hmul2(__hsub2(v[i], offset), scale));
  }
};

/// Eight unsigned values of up to eight bits, as v * times + minus.
__device__ __forceinline__ void scale_bytes(const uint2& q, __half2 times, __half2 minus,
                                            Half8& w) {
  const __half2 offset = both(1024);
  __half2 v[4];
  bytes_to_halves(q.x, v[0], v[1]);
  bytes_to_halves(q.y, v[2], v[3]);
#pragma unroll
  for (int i = 0; i < 4; ++i) w[i] = bits(__hfma2(__hsub2(v[i], offset), times, minus));
}

struct FormatQ4_K {
  __device__ static void decode8(const std::uint8_t* row, std::uint32_t chunk, std::uint32_t t,
                                 const Iq2Table*, Half8& w) {
    const std::uint8_t* block = row + 144 * (chunk / 8);
    const std::uint32_t group = chunk % 8;
    const std::uint8_t* s = block + 4;
    std::uint32_t scale, least;
    if (group < 4) {
      scale = s[group] & 63, least = s[group + 4] & 63;
    } else {
      const std::uint32_t low = s[group + 4];
      scale = (low & 15) | (s[group - 4] >> 6 << 4);
      least = low >> 4 | (s[group] >> 6 << 4);
    }
    const __half2 times = __hmul2(both_of(scale), __half2half2(load_half(block)));
    const __half2 minus = __hneg2(__hmul2(both_of(least), __half2half2(load_half(block + 2))));
    uint2 q = load8_by_words(block + 16 + 32 * (group / 2) + 8 * t);
    q.x = q.x >> 4 * (group % 2) & 0x0F0F0F0Fu;
    q.y = q.y >> 4 * (group % 2) & 0x0F0F0F0Fu;
    scale_bytes(q, times, minus, w);
  }
};

struct FormatQ2_K {
  __device__ static void decode8(const std::uint8_t* row, std::uint32_t chunk, std::uint32_t t,
                                 const Iq2Table*, Half8& w) {
    const std::uint8_t* block = row + 84 * (chunk / 8);
    const std::uint32_t group = chunk % 8;
    const std::uint32_t sm = block[2 * group + t / 2];
    const __half2 times = __hmul2(both_of(sm & 15), __half2half2(load_half(block + 80)));
    const __half2 minus = __hneg2(__hmul2(both_of(sm >> 4), __half2half2(load_half(block + 82))));
    uint2 q = load8_by_words(block + 16 + 32 * (group / 4) + 8 * t);
    q.x = q.x >> 2 * (group % 4) & 0x03030303u;
    q.y = q.y >> 2 * (group % 4) & 0x03030303u;
    scale_bytes(q, times, minus, w);
  }
};

struct FormatIQ2_XXS {
  __device__ static void decode8(const std::uint8_t* row, std::uint32_t chunk, std::uint32_t t,
                                 const Iq2Table* table, Half8& w) {
    const std::uint8_t* block = row + 66 * (chunk / 8);
    const std::uint8_t* group = block + 2 + 8 * (chunk % 8);
    const auto* tail = reinterpret_cast<const std::uint16_t*>(group + 4);
    const std::uint32_t signs_and_scale = tail[0] | std::uint32_t{tail[1]} << 16;
    const __half2 eighth = __hmul2(__half2half2(load_half(block)), as_half2(0x30003000u));
    const __half2 times = __hmul2(both_of(signs_and_scale >> 28 << 1 | 1), eighth);
    const std::uint32_t seven = signs_and_scale >> 7 * t & 127;
    const std::uint32_t signs = seven | (__popc(seven) & 1) << 7;
    // Bits 2i and 2i + 1 of the signs stand 15 apart here, as in a pair of halves 16 apart.
    const std::uint32_t apart = signs | signs << 15;
    table->magnitudes(group[t], w);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      w[i] = bits(__hmul2(as_half2(w[i] ^ (apart << (15 - 2 * i) & 0x80008000u)), times));
  }
};

struct FormatMXFP4 {
  __device__ static void decode8(const std::uint8_t* row, std::uint32_t chunk, std::uint32_t t,
                                 const Iq2Table*, Half8& w) {
    const std::uint8_t* block = row + 17 * chunk;
    // A code's three bits are a half's upper ones, and the value 2^14 times too small.
    const std::uint32_t exponent = block[0];
    const float scale = exponent > 240 ? 0x1p126f : __uint_as_float((exponent + 14) << 23);
    const __half2 times = both(fminf(scale, 65504.0f));
    uint2 q = load8(block + 1 + 8 * (t & 1));
    q.x = q.x >> 4 * (t / 2) & 0x0F0F0F0Fu;
    q.y = q.y >> 4 * (t / 2) & 0x0F0F0F0Fu;
    const std::uint32_t pairs[4] = {__byte_perm(q.x, 0, 0x4140), __byte_perm(q.x, 0, 0x4342),
                                    __byte_perm(q.y, 0, 0x4140), __byte_perm(q.y, 0, 0x4342)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t v = (pairs[i] << 9 & 0x0E000E00u) | (pairs[i] << 12 & 0x80008000u);
      w[i] = bits(__hmul2(as_half2(v), times));
    }
  }
};

/// Calls f(Format{}) with the format of a matrix.
template <typename F>
__device__ __forceinline__ void with_format(std::uint32_t type, const F& f) {
  switch (static_cast<TensorType>(type)) {
    case TensorType::kF16:
      return f(FormatF16{});
    case TensorType::kBF16:
      return f(FormatBF16{});
    case TensorType::kF32:
      return f(FormatF32{});
    case TensorType::kQ8_0:
      return f(FormatQ8_0{});
    case TensorType::kQ4_K:
      return f(FormatQ4_K{});
    case TensorType::kQ2_K:
      return f(FormatQ2_K{});
    case TensorType::kIQ2_XXS:
      return f(FormatIQ2_XXS{});
    case TensorType::kMXFP4:
      return f(FormatMXFP4{});
    default:
      return;
  }
}

}  // namespace ds4::cuda
