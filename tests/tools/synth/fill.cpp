#include "tests/tools/synth/fill.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/quant/float16.h"
#include "engine/quant/iq2_xxs.h"
#include "engine/quant/mxfp4.h"
#include "engine/quant/q2_k.h"
#include "engine/quant/q4_k.h"
#include "engine/quant/q8_0.h"
#include "tests/tools/synth/random.h"

namespace ds4::synth {
namespace {

/// Random words from word `first` on; the tail of the last word is cut.
void fill_random(std::uint64_t key, std::uint64_t first, std::span<std::byte> out) {
  const std::size_t words = out.size() / sizeof(std::uint64_t);
  for (std::size_t i = 0; i < words; ++i) {
    const std::uint64_t word = random_word(key, first + i);
    std::memcpy(out.data() + i * sizeof word, &word, sizeof word);
  }
  const std::uint64_t word = random_word(key, first + words);
  std::memcpy(out.data() + words * sizeof word, &word, out.size() % sizeof word);
}

/// Replaces the scales of every block in `out`, whose bytes are random, by `set(block)`.
template <typename Block, typename Set>
void set_scales(std::span<std::byte> out, const Set& set) {
  for (std::size_t at = 0; at + sizeof(Block) <= out.size(); at += sizeof(Block)) {
    Block block;
    std::memcpy(&block, out.data() + at, sizeof block);
    set(block);
    std::memcpy(out.data() + at, &block, sizeof block);
  }
}

/// Half-precision scales around `d`: one of 16, chosen by random bits, so that blocks differ.
struct ScaleTable {
  explicit ScaleTable(float d) {
    for (int i = 0; i < 16; ++i) {
      value[i] = quant::float_to_half(d * (0.75f + static_cast<float>(i) / 30.0f));
    }
  }
  std::uint16_t pick(std::uint16_t random) const { return value[random & 15]; }
  std::uint16_t value[16];
};

// Root mean squares of the integers behind a weight, from which the scale follows.
constexpr float kRmsInt8 = 73.9f;                  // -128..127
constexpr float kRmsIq2 = 0.125f * 23.2f * 18.5f;  // (2s + 1) / 8 times a magnitude of the grid
constexpr float kRmsQ2 = 9.1f * 1.118f;            // scale 1..15 times (0..3 less 1.5)
constexpr float kRmsQ4 = 36.4f * 4.61f;            // scale 1..63 times (0..15 less 7.5)
constexpr float kRmsMxfp4 = 2.93f * 0.90f;  // 0 .5 1 1.5 2 3 4 6, a quarter of the blocks halved

void fill_q8_0(float deviation, std::span<std::byte> out) {
  const ScaleTable scales(deviation / kRmsInt8);
  set_scales<quant::BlockQ8_0>(out, [&](auto& block) { block.d = scales.pick(block.d); });
}

void fill_iq2_xxs(float deviation, std::span<std::byte> out) {
  const ScaleTable scales(deviation / kRmsIq2);
  set_scales<quant::BlockIQ2XXS>(out, [&](auto& block) { block.d = scales.pick(block.d); });
}

void fill_q2_k(float deviation, std::span<std::byte> out) {
  // The minimum is 1.5 scales, so that 0..3 is centred: dmin = 1.5 d, and both nibbles alike.
  const ScaleTable scales(deviation / kRmsQ2), minimums(1.5f * deviation / kRmsQ2);
  set_scales<quant::BlockQ2K>(out, [&](auto& block) {
    const std::uint16_t random = block.d;
    block.d = scales.pick(random);
    block.dmin = minimums.pick(random);
    for (std::uint8_t& scale : block.scales) {
      const unsigned nibble = std::max(scale & 15u, 1u);
      scale = static_cast<std::uint8_t>(nibble | (nibble << 4));
    }
  });
}

void fill_q4_k(float deviation, std::span<std::byte> out) {
  // As for Q2_K, with 7.5 scales; six bits each, in the order that scale_and_min() reads.
  const ScaleTable scales(deviation / kRmsQ4), minimums(7.5f * deviation / kRmsQ4);
  set_scales<quant::BlockQ4K>(out, [&](auto& block) {
    const std::uint16_t random = block.d;
    block.d = scales.pick(random);
    block.dmin = minimums.pick(random);
    for (int group = 0; group < 4; ++group) {
      const unsigned low = std::max(block.scales[group] & 63u, 1u);
      const unsigned high = std::max(block.scales[group + 8] & 63u, 1u);
      block.scales[group] = static_cast<std::uint8_t>(low | ((high >> 4) << 6));
      block.scales[group + 4] = block.scales[group];
      block.scales[group + 8] = static_cast<std::uint8_t>((high & 15) | ((high & 15) << 4));
    }
  });
}

void fill_mxfp4(float deviation, std::span<std::byte> out) {
  // Powers of two only: the nearest, and for one block in four the half of it.
  const int exponent = static_cast<int>(std::lround(std::log2(deviation / kRmsMxfp4)));
  const auto code = static_cast<std::uint8_t>(std::clamp(127 + exponent, 1, 254));
  set_scales<quant::BlockMXFP4>(out, [&](auto& block) {
    block.e = static_cast<std::uint8_t>(code - ((block.e & 3) == 0 ? 1 : 0));
  });
}

/// Uniform in +-limit, from random bits in place. T is the storage, `pack` makes it from a float.
template <typename T, typename Pack>
void fill_uniform(float limit, std::span<std::byte> out, const Pack& pack) {
  for (std::size_t at = 0; at + sizeof(T) <= out.size(); at += sizeof(T)) {
    std::int16_t random;
    std::memcpy(&random, out.data() + at, sizeof random);
    const T value = pack(limit * (static_cast<float>(random) / 32768.0f));
    std::memcpy(out.data() + at, &value, sizeof value);
  }
}

void fill_matrix(const Tensor& tensor, std::span<std::byte> out) {
  const float deviation = 1.0f / std::sqrt(static_cast<float>(tensor.dims[0]));
  const float limit = deviation * std::sqrt(3.0f);  // of a uniform distribution
  switch (tensor.type) {
    case TensorType::kQ8_0:
      return fill_q8_0(deviation, out);
    case TensorType::kIQ2_XXS:
      return fill_iq2_xxs(deviation, out);
    case TensorType::kQ2_K:
      return fill_q2_k(deviation, out);
    case TensorType::kQ4_K:
      return fill_q4_k(deviation, out);
    case TensorType::kMXFP4:
      return fill_mxfp4(deviation, out);
    case TensorType::kF16:
      return fill_uniform<std::uint16_t>(limit, out, quant::float_to_half);
    case TensorType::kBF16:
      return fill_uniform<std::uint16_t>(limit, out, quant::float_to_bf16);
    case TensorType::kF32:
      return fill_uniform<float>(limit, out, [](float x) { return x; });
    case TensorType::kI32:
      return;
  }
}

void fill_ones(std::span<std::byte> out) {
  constexpr float kOne = 1.0f;
  for (std::size_t at = 0; at < out.size(); at += sizeof kOne) {
    std::memcpy(out.data() + at, &kOne, sizeof kOne);
  }
}

/// Row by row: an arithmetic progression with a random start and step, short enough not to wrap
/// onto itself.
void fill_expert_ids(const Dims& dims, std::uint64_t key, std::uint64_t begin,
                     std::span<std::byte> out) {
  const std::uint64_t first = begin / sizeof(std::int32_t);
  for (std::size_t i = 0; i < out.size() / sizeof(std::int32_t); ++i) {
    const std::uint64_t row = (first + i) / dims.n_expert_used;
    const std::uint64_t column = (first + i) % dims.n_expert_used;
    const std::uint64_t random = random_word(key, row);
    const std::uint64_t step = 1 + (random >> 32) % (dims.n_expert / dims.n_expert_used);
    const auto id = static_cast<std::int32_t>((random + column * step) % dims.n_expert);
    std::memcpy(out.data() + i * sizeof id, &id, sizeof id);
  }
}

}  // namespace

std::uint64_t chunk_bytes(TensorType type) {
  // A multiple of eight blocks, so that chunks begin at whole random words.
  constexpr std::uint64_t kAbout = 8u << 20;
  const std::uint64_t unit = std::uint64_t{traits_of(type).value().block_bytes} * 8;
  return kAbout / unit * unit;
}

void fill(const Plan& plan, const Tensor& tensor, std::uint64_t begin, std::span<std::byte> out) {
  const std::uint64_t key = stream_key(plan.seed, tensor.name);
  switch (tensor.content) {
    case Content::kOnes:
      return fill_ones(out);
    case Content::kExpertIds:
      return fill_expert_ids(plan.dims, key, begin, out);
    case Content::kMatrix:
    case Content::kSmall:
      break;
  }
  fill_random(key, begin / sizeof(std::uint64_t), out);
  if (tensor.content == Content::kMatrix) return fill_matrix(tensor, out);
  fill_uniform<float>(0.1f, out, [](float x) { return x; });
}

}  // namespace ds4::synth
