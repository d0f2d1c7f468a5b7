#pragma once
// Vector operations that are not matrix products: norms, gates, stream mixing, compression.
//
// The kernels are written once (ops_kernels.h, attention_kernels.h) in terms of a vector of floats
// and compiled once per instruction set, so what differs between two machines is the width of a
// vector and whether a multiply-add rounds once. Each kernel's order of operations depends on its
// sizes alone, never on what else is computed beside it: results of one row are the same bits in
// any batch.
//
// All lengths are multiples of kOpsBlock; pointers need no alignment; nothing here allocates. Safe
// to call from any thread.
#include <cstddef>
#include <cstdint>

#include "engine/cpu/attention.h"
#include "engine/cpu/isa.h"

namespace ds4::cpu {

inline constexpr std::size_t kOpsBlock = 16;

/// A softmax-weighted sum of rows that is built up row by row, channel by channel: the largest
/// logit so far, the sum of the weights and the weighted sum of values, both relative to it.
struct SoftmaxSums {
  float* max = nullptr;
  float* sum = nullptr;
  float* acc = nullptr;

  SoftmaxSums at(std::size_t channel) const {
    return {max + channel, sum + channel, acc + channel};
  }
};

struct Ops {
  /// Sum of squares of x.
  float (*sum_squares)(const float* x, std::size_t n);
  /// y = x / sqrt(mean(x^2) + eps) * weight; a null weight stands for ones. y may be x.
  void (*rms_norm)(const float* x, const float* weight, std::size_t n, float eps, float* y);
  /// y = silu(min(gate, limit)) * clamp(up, -limit, limit). y may be gate.
  void (*swiglu)(const float* gate, const float* up, std::size_t n, float limit, float* y);
  /// y = sum_s w[s] * x[s * n ...] over the four streams of one row.
  void (*gather_streams)(const float* streams, const float* w, std::size_t n, float* y);
  /// streams[d] = post[d] * y + sum_s mix[s * 4 + d] * streams[s], in place.
  void (*spread_streams)(float* streams, const float* post, const float* mix, const float* y,
                         std::size_t n);
  /// y = sum_i w[i] * (row rows[i] of x) + last, added in that order. x is {.., n}.
  void (*weighted_sum)(const float* x, const std::uint32_t* rows, const float* w, std::size_t count,
                       const float* last, std::size_t n, float* y);
  /// Forgets everything.
  void (*sums_clear)(const SoftmaxSums& sums, std::size_t n);
  /// Adds one row: logits = gate + bias.
  void (*sums_add)(const SoftmaxSums& sums, const float* value, const float* gate,
                   const float* bias, std::size_t n);
  /// y = acc / sum.
  void (*sums_finish)(const SoftmaxSums& sums, std::size_t n, float* y);

  AttentionOps attention;
};

/// The kernels of `isa`, which must be supported by this build and machine (see is_supported).
const Ops& ops_for(Isa isa);

}  // namespace ds4::cpu
