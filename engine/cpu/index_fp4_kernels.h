#pragma once
// The kernels behind index_fp4.h, in terms of Vec: a lane is a key. For the ops_*.cpp translation
// units only.
#include "engine/cpu/attention_kernels.h"
#include "engine/cpu/index_fp4.h"
#include "engine/cpu/rounding_kernels.h"

namespace ds4::cpu {
namespace {

constexpr std::size_t kGroupValues = 4;  // values of a key that share a lane
constexpr std::size_t kBlockGroups = kFp4Block / kGroupValues;
constexpr std::size_t kGroupBytes = kKeyTile * kGroupValues;  // of all keys
constexpr int kKeyBias = 12;

typedef std::uint8_t KeyBytes __attribute__((vector_size(kWidth * kGroupValues)));
typedef std::int32_t Vec4Int __attribute__((vector_size(16)));

void code_query(const float* q, std::size_t n, Fp4QueryBlock* blocks) {
  for (std::size_t block = 0; block < n / kFp4Block; ++block) {
    const float* from = q + block * kFp4Block;
    Fp4QueryBlock& to = blocks[block];
    const int exponent = scale_exponent(largest(largest_of(from, kFp4Block)), kFp4Largest);
    const Vec inverse = splat(power_of_two(1 - exponent));
    VecInt sum{};
    for (std::size_t i = 0; i < kFp4Block; i += kWidth) {
      const Vec x = load(from + i);
      const Vec cut = min(magnitude(x) * inverse, splat(2 * kFp4Largest));
      const VecInt doubled = __builtin_convertvector(with_sign_of(cut, x), VecInt);
      for (std::size_t j = 0; j < kWidth; ++j)
        to.values[i + j] = static_cast<std::int8_t>(doubled[j]);
      sum += doubled;
    }
    to.offset = 0;
    for (std::size_t j = 0; j < kWidth; ++j) to.offset -= kKeyBias * sum[j];
    to.scale = power_of_two(exponent - 1);
  }
}

/// kKeyBias + the doubled value of each byte's lowest four bits.
inline KeyBytes biased_values(KeyBytes codes) {
  codes &= 0xF;
#if defined(__AVX2__)
  const __m128i table = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
#if defined(__AVX512F__)
  return (KeyBytes)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), (__m512i)codes);
#else
  return (KeyBytes)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), (__m256i)codes);
#endif
#else
  const KeyBytes code = codes & 7;
  const KeyBytes sign = (KeyBytes)(codes > 7);
  const KeyBytes value =
      code + ((KeyBytes)(code > 4) & 1) + ((KeyBytes)(code > 5) & 1) + ((KeyBytes)(code > 6) & 3);
  return (value ^ sign) - sign + kKeyBias;
#endif
}

inline Vec4Int load4(const std::uint8_t* p) {
  Vec4Int v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline std::int32_t four_bytes(const std::int8_t* p) {
  std::int32_t four;
  std::memcpy(&four, p, sizeof four);
  return four;
}

/// Four keys' 16 bytes of codes of a block, turned so that each result has the same four bytes of
/// every key, to `to` and on in steps of kGroupBytes.
inline void turn_codes(const std::uint8_t* const* codes, std::size_t at, std::uint8_t* to) {
  const Vec4Int a = load4(codes[0] + at), b = load4(codes[1] + at);
  const Vec4Int c = load4(codes[2] + at), d = load4(codes[3] + at);
  const Vec4Int ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Vec4Int ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Vec4Int cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Vec4Int cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const Vec4Int turned[] = {__builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5),
                            __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
                            __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5),
                            __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
  for (std::size_t i = 0; i < 4; ++i) std::memcpy(to + i * kGroupBytes, &turned[i], 16);
}

/// A block's codes, which stand in the first half of its groups, become values in all of them.
inline void spread_block(std::uint8_t* block, std::size_t keys) {
  constexpr std::size_t kHalf = kBlockGroups / 2 * kGroupBytes;
  for (std::size_t group = 0; group < kHalf; group += kGroupBytes) {
    for (std::size_t k = 0; k < keys * kGroupValues; k += sizeof(KeyBytes)) {
      std::uint8_t* at = block + group + k;
      KeyBytes pairs;
      std::memcpy(&pairs, at, sizeof pairs);
      const KeyBytes low = biased_values(pairs), high = biased_values(pairs >> 4);
      std::memcpy(at, &low, sizeof low);
      std::memcpy(at + kHalf, &high, sizeof high);
    }
  }
}

/// Four keys' scales of doubled values, to `to` and on in steps of kKeyTile; `exponents` are every
/// key's of four blocks, of which the first `blocks` count.
inline void turn_scales(Vec4Int exponents, std::size_t blocks, float* to) {
  for (std::size_t block = 0; block < blocks; ++block) {
    const Vec4Int exponent = (exponents << static_cast<int>(24 - 8 * block)) >> 24;
    const Vec4Int scale = (exponent + 126) << 23;
    std::memcpy(to + block * kKeyTile, &scale, sizeof scale);
  }
}

void spread(const Fp4Rows& rows, std::size_t count, const Fp4Keys& keys) {
  const std::size_t padded = whole_vectors(count), blocks = rows.dim / kFp4Block;
  for (std::size_t first = 0; first < padded; first += 4) {
    const std::uint8_t* codes[4];
    const std::int8_t* exponents[4];
    for (std::size_t i = 0; i < 4; ++i) {
      const std::size_t row = first + i < count ? first + i : count - 1;
      codes[i] = rows.codes + row * rows.stride;
      exponents[i] = rows.exponents + row * rows.stride;
    }
    for (std::size_t block = 0; block < blocks; ++block)
      turn_codes(codes, block * kFp4Block / 2,
                 keys.values + block * kBlockGroups * kGroupBytes + first * kGroupValues);
    for (std::size_t block = 0; block < blocks; block += 4) {
      const Vec4Int four = {four_bytes(exponents[0] + block), four_bytes(exponents[1] + block),
                            four_bytes(exponents[2] + block), four_bytes(exponents[3] + block)};
      turn_scales(four, blocks - block < 4 ? blocks - block : 4,
                  keys.scales + block * kKeyTile + first);
    }
  }
  for (std::size_t block = 0; block < blocks; ++block)
    spread_block(keys.values + block * kBlockGroups * kGroupBytes, padded);
}

/// products[h] = block . block for one vector of keys; the heads' blocks are `stride` apart.
template <std::size_t kHeads>
void block_products(const Fp4QueryBlock* q, std::size_t stride, const std::uint8_t* keys,
                    VecInt* products) {
#if defined(__AVX512F__)
  __m512i acc[kHeads];
  for (std::size_t h = 0; h < kHeads; ++h) acc[h] = _mm512_set1_epi32(q[h * stride].offset);
  for (std::size_t group = 0; group < kBlockGroups; ++group) {
    const __m512i key = _mm512_loadu_si512(keys + group * kGroupBytes);
    for (std::size_t h = 0; h < kHeads; ++h) {
      const std::int32_t four = four_bytes(q[h * stride].values + group * kGroupValues);
      acc[h] = _mm512_dpbusd_epi32(acc[h], key, _mm512_set1_epi32(four));
    }
  }
  for (std::size_t h = 0; h < kHeads; ++h) products[h] = (VecInt)acc[h];
#elif defined(__AVX2__)
  // Pairs in 16 bits: at most 2 * 24 * 12 each, and 8 times that in all.
  __m256i acc[kHeads] = {};
  for (std::size_t group = 0; group < kBlockGroups; ++group) {
    const auto* at = reinterpret_cast<const __m256i*>(keys + group * kGroupBytes);
    const __m256i key = _mm256_loadu_si256(at);
    for (std::size_t h = 0; h < kHeads; ++h) {
      const std::int32_t four = four_bytes(q[h * stride].values + group * kGroupValues);
      acc[h] = _mm256_add_epi16(acc[h], _mm256_maddubs_epi16(key, _mm256_set1_epi32(four)));
    }
  }
  for (std::size_t h = 0; h < kHeads; ++h)
    products[h] = (VecInt)_mm256_madd_epi16(acc[h], _mm256_set1_epi16(1)) + q[h * stride].offset;
#else
  for (std::size_t h = 0; h < kHeads; ++h) {
    for (std::size_t k = 0; k < kWidth; ++k) {
      std::int32_t sum = q[h * stride].offset;
      for (std::size_t i = 0; i < kFp4Block; ++i) {
        const std::size_t at = i / kGroupValues * kGroupBytes + k * kGroupValues + i % kGroupValues;
        sum += keys[at] * q[h * stride].values[i];
      }
      products[h][k] = sum;
    }
  }
#endif
}

/// Adds some heads' part to the scores of the keys from `first` on, one vector of them.
template <std::size_t kHeads>
Vec add_heads(const Fp4IndexTile& tile, std::size_t head, std::size_t first, Vec scores) {
  const std::size_t blocks = tile.dim / kFp4Block;
  const Fp4QueryBlock* q = tile.q + head * blocks;
  Vec dots[kHeads] = {};
  for (std::size_t block = 0; block < blocks; ++block) {
    VecInt products[kHeads];
    block_products<kHeads>(
        q + block, blocks,
        tile.keys.values + block * kBlockGroups * kGroupBytes + first * kGroupValues, products);
    const Vec key_scale = load(tile.keys.scales + block * kKeyTile + first);
    for (std::size_t h = 0; h < kHeads; ++h) {
      const Vec product = __builtin_convertvector(products[h], Vec) * q[h * blocks + block].scale;
      dots[h] = dots[h] + product * key_scale;
    }
  }
  for (std::size_t h = 0; h < kHeads; ++h)
    scores = scores + max(dots[h], Vec{}) * tile.weights[head + h];
  return scores;
}

void score(const Fp4IndexTile& tile) {
  for (std::size_t first = 0; first < tile.count; first += kWidth) {
    Vec scores{};
    std::size_t head = 0;
    for (; head + kHeadTile <= tile.heads; head += kHeadTile)
      scores = add_heads<kHeadTile>(tile, head, first, scores);
    for (; head < tile.heads; ++head) scores = add_heads<1>(tile, head, first, scores);
    store(tile.scores + first, scores);
  }
}

}  // namespace
}  // namespace ds4::cpu
