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
#include "engine/cpu/index_fp4.h"
#include "engine/cpu/isa.h"

namespace ds4::cpu {

inline constexpr std::size_t kOpsBlock = 16;

// The few bits of DeepSeek's own caches: FP8 E4M3 (4 exponent bits, 3 mantissa bits, no infinities)
// in blocks with a power-of-two scale, chosen as if the block's largest value were at least
// kFp8Least; for FP4 see index_fp4.h.
inline constexpr std::size_t kFp8Block = 64;
inline constexpr float kFp8Largest = 448.0f;
inline constexpr float kFp8Least = 1e-4f;

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

  /// Rounds values through FP8, ties to even. The last block may be shorter.
  void (*round_fp8)(float* row, std::size_t n);
  /// Rounds values through FP4, ties to the even code.
  void (*round_fp4)(float* row, std::size_t n);
  /// Hadamard transform in natural order, scaled by 1/sqrt(n); n a power of two.
  void (*hadamard)(float* row, std::size_t n);
  /// Values of codes: sign in the top bit; block i's scale is 2^exponents[i].
  void (*decode_fp8)(const std::uint8_t* codes, const std::int8_t* exponents, std::size_t n,
                     float* y);

  // The two passes of a draw (engine/text/draw.h); `n` is any number of logits.
  /// The largest of those that are finite; minus infinity if none is.
  float (*draw_peak)(const float* logits, std::size_t n);
  /// The sum of all weight_of(logit, peak, scale), and each to `weights` unless that is null; 0 for
  /// what is not finite. `peak` is draw_peak() and finite.
  std::uint64_t (*draw_weights)(const float* logits, std::size_t n, float peak, float scale,
                                std::uint64_t* weights);

  AttentionOps attention;
  Fp4IndexOps index_fp4;
};

/// The kernels of `isa`, which must be supported by this build and machine (see is_supported).
const Ops& ops_for(Isa isa);

}  // namespace ds4::cpu
