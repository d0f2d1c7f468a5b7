#pragma once
// The kernels behind attention.h, in terms of Vec. For the ops_*.cpp translation units only.
#include <cfloat>

#include "engine/cpu/attention.h"
#include "engine/cpu/ops_vec.h"

namespace ds4::cpu {
namespace {

// Accumulators must fit the registers: 32 with AVX-512, 16 elsewhere.
constexpr std::size_t kHeadTile = kWidth == 16 ? 4 : 2;

constexpr std::size_t whole_vectors(std::size_t count) {
  return (count + kWidth - 1) / kWidth * kWidth;
}

/// out[h * kKeyTile + k] = q[h] . keys[k] for k < count, and -FLT_MAX from there to a whole vector.
template <std::size_t kHeads>
void dots(const float* q, std::size_t dim, const float* const* keys, std::size_t count,
          float* out) {
  for (std::size_t k = 0; k < count; k += kKeyGroup) {
    const float* k0 = keys[k];
    const float* k1 = keys[k + 1];
    const float* k2 = keys[k + 2];
    const float* k3 = keys[k + 3];
    Vec acc[kHeads][kKeyGroup] = {};
    for (std::size_t i = 0; i < dim; i += kWidth) {
      const Vec v0 = load(k0 + i), v1 = load(k1 + i), v2 = load(k2 + i), v3 = load(k3 + i);
      for (std::size_t h = 0; h < kHeads; ++h) {
        const Vec x = load(q + h * dim + i);
        acc[h][0] = fma(x, v0, acc[h][0]);
        acc[h][1] = fma(x, v1, acc[h][1]);
        acc[h][2] = fma(x, v2, acc[h][2]);
        acc[h][3] = fma(x, v3, acc[h][3]);
      }
    }
    for (std::size_t h = 0; h < kHeads; ++h) {
      const Vec4 four = sums(acc[h][0], acc[h][1], acc[h][2], acc[h][3]);
      std::memcpy(out + h * kKeyTile + k, &four, sizeof four);
    }
  }
  for (std::size_t h = 0; h < kHeads; ++h)
    for (std::size_t k = count; k < whole_vectors(count); ++k) out[h * kKeyTile + k] = -FLT_MAX;
}

/// Turns a head's dots into weights relative to its new maximum. Returns the factor by which what
/// was accumulated before must shrink.
float weigh(float* dots, std::size_t count, float scale, float& top, float& total) {
  const std::size_t padded = whole_vectors(count);
  Vec most = splat(top);
  for (std::size_t k = 0; k < padded; k += kWidth) {
    const Vec score = load(dots + k) * scale;
    store(dots + k, score);
    most = max(score, most);
  }
  const float new_top = largest(most);
  Vec weights{};
  for (std::size_t k = 0; k < padded; k += kWidth) {
    const Vec weight = exp(load(dots + k) - new_top);
    store(dots + k, weight);
    weights = weights + weight;
  }
  const float shrink = exp(splat(top - new_top))[0];
  top = new_top;
  total = total * shrink + sum(weights);
  return shrink;
}

/// acc[h] = acc[h] * shrink[h] + sum_k weights[h * kKeyTile + k] * keys[k].
template <std::size_t kHeads>
void accumulate(float* acc, std::size_t dim, const float* shrink, const float* weights,
                const float* const* keys, std::size_t count) {
  constexpr std::size_t kVecs = 4;
  std::size_t i = 0;
  for (; i + kVecs * kWidth <= dim; i += kVecs * kWidth) {
    Vec sum[kHeads][kVecs];
    for (std::size_t h = 0; h < kHeads; ++h)
      for (std::size_t v = 0; v < kVecs; ++v)
        sum[h][v] = load(acc + h * dim + i + v * kWidth) * shrink[h];
    for (std::size_t k = 0; k < count; ++k) {
      const float* key = keys[k] + i;
      for (std::size_t v = 0; v < kVecs; ++v) {
        const Vec value = load(key + v * kWidth);
        for (std::size_t h = 0; h < kHeads; ++h)
          sum[h][v] = fma(splat(weights[h * kKeyTile + k]), value, sum[h][v]);
      }
    }
    for (std::size_t h = 0; h < kHeads; ++h)
      for (std::size_t v = 0; v < kVecs; ++v) store(acc + h * dim + i + v * kWidth, sum[h][v]);
  }
  for (; i < dim; i += kWidth) {
    for (std::size_t h = 0; h < kHeads; ++h) {
      Vec sum = load(acc + h * dim + i) * shrink[h];
      for (std::size_t k = 0; k < count; ++k)
        sum = fma(splat(weights[h * kKeyTile + k]), load(keys[k] + i), sum);
      store(acc + h * dim + i, sum);
    }
  }
}

template <std::size_t kHeads>
void attend_heads(const AttentionTile& tile, std::size_t head) {
  alignas(64) float weights[kHeads * kKeyTile];
  float shrink[kHeads];
  dots<kHeads>(tile.q + head * tile.dim, tile.dim, tile.keys, tile.count, weights);
  for (std::size_t h = 0; h < kHeads; ++h)
    shrink[h] = weigh(weights + h * kKeyTile, tile.count, tile.scale, tile.max[head + h],
                      tile.sum[head + h]);
  accumulate<kHeads>(tile.acc + head * tile.dim, tile.dim, shrink, weights, tile.keys, tile.count);
}

void attend(const AttentionTile& tile) {
  std::size_t head = 0;
  for (; head + kHeadTile <= tile.heads; head += kHeadTile) attend_heads<kHeadTile>(tile, head);
  for (; head < tile.heads; ++head) attend_heads<1>(tile, head);
}

void finish(const AttentionTile& tile) {
  for (std::size_t h = 0; h < tile.heads; ++h) {
    const float inverse = 1.0f / tile.sum[h];
    float* acc = tile.acc + h * tile.dim;
    for (std::size_t i = 0; i < tile.dim; i += kWidth) store(acc + i, load(acc + i) * inverse);
  }
}

template <std::size_t kHeads>
void index_heads(const IndexTile& tile, std::size_t head) {
  alignas(64) float products[kHeads * kKeyTile];
  dots<kHeads>(tile.q + head * tile.dim, tile.dim, tile.keys, tile.count, products);
  for (std::size_t h = 0; h < kHeads; ++h) {
    for (std::size_t k = 0; k < tile.count; k += kWidth) {
      const Vec relu = max(load(products + h * kKeyTile + k), Vec{});
      store(tile.scores + k, fma(relu, splat(tile.weights[head + h]), load(tile.scores + k)));
    }
  }
}

void index(const IndexTile& tile) {
  for (std::size_t k = 0; k < tile.count; k += kWidth) store(tile.scores + k, Vec{});
  std::size_t head = 0;
  for (; head + kHeadTile <= tile.heads; head += kHeadTile) index_heads<kHeadTile>(tile, head);
  for (; head < tile.heads; ++head) index_heads<1>(tile, head);
}

}  // namespace
}  // namespace ds4::cpu
