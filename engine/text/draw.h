#pragma once
// The arithmetic of a draw, the same bits on a CPU and on a GPU.
//
// A token's weight is 2^y, with y = (logit - peak) * log2(e) / temperature, as a whole number of
// 2^-40ths: the most likely token weighs 2^40, one that is less than 2^-40 as likely weighs nothing
// and is never drawn. Whole numbers can be summed in any order, by one thread or by thousands, and
// the sum is the same. So the one thing that both sides must round alike is a single weight, and
// that is the code below: additions and multiplications of floats, none of them fused.
//
// A cut of the tail is the last token that stays, in the order of more_likely(): whatever is not
// behind it is kept. The draw goes over the kept tokens by ascending id.
#include <cstdint>

#if defined(__CUDACC__)
#define DS4_HOST_DEVICE __host__ __device__
#else
#define DS4_HOST_DEVICE
#endif

namespace ds4 {

__extension__ using Uint128 = unsigned __int128;

inline constexpr std::uint64_t kFullWeight = std::uint64_t{1} << 40;
inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLargestFloat = 3.402823466e38f;

/// SamplingParams and a position, as the whole numbers that a draw compares with. Like Pick it
/// crosses between host and device as it is, hence without initialisers.
struct Draw {
  float scale;                 // of logits, to base 2
  std::uint32_t top_k;         // 0: off
  std::uint64_t top_p;         // 2^-32ths of the mass; 2^32: off
  std::uint64_t least_weight;  // of min_p
  std::uint64_t uniform;       // 2^-53ths
  bool greedy;                 // then all of the above is 0
};

/// What a draw finds; a SampledToken follows from it.
struct Pick {
  std::int32_t token;   // -1: no logit is finite
  float logit;          // the token's
  float peak;           // the largest
  std::uint64_t total;  // all weights at temperature 1
};

namespace draw_detail {

// T is float or, on a CPU, a vector of floats.
#if defined(__CUDA_ARCH__)
DS4_HOST_DEVICE inline float multiply(float a, float b) {
  return __fmul_rn(a, b);
}
DS4_HOST_DEVICE inline float add(float a, float b) {
  return __fadd_rn(a, b);
}
#else
template <typename T>
DS4_HOST_DEVICE inline T multiply(T a, T b) {
  return a * b;
}
template <typename T>
DS4_HOST_DEVICE inline T add(T a, T b) {
  return a + b;
}
#endif

/// 2^x for |x| <= 1/2 by its series, ln(2)^k / k!: off by 1.2e-7 at most.
template <typename T>
DS4_HOST_DEVICE inline T exp2_series(T x) {
  constexpr float kTerms[] = {1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f,
                              2.4022651e-1f, 6.9314718e-1f, 1.0f};
  T p = T{} + kTerms[0];
  for (int k = 1; k < 7; ++k) p = add(multiply(p, x), T{} + kTerms[k]);
  return p;
}

}  // namespace draw_detail

DS4_HOST_DEVICE inline bool is_finite(float x) {
  return x >= -kLargestFloat && x <= kLargestFloat;
}

/// Ties go to the lower id.
DS4_HOST_DEVICE inline bool more_likely(float a, std::uint32_t id_a, float b, std::uint32_t id_b) {
  return a > b || (a == b && id_a < id_b);
}

/// A weight of this power of two is less than a unit.
inline constexpr float kLeastPower = -41.0f;

/// 2^((logit - peak) * scale) in units of 2^-40, rounded down. `logit` is finite and at most
/// `peak`.
DS4_HOST_DEVICE inline std::uint64_t weight_of(float logit, float peak, float scale) {
  using draw_detail::add;
  using draw_detail::multiply;
  float below = add(logit, -peak);
  if (below < -kLargestFloat) below = -kLargestFloat;  // times 0 it must not be NaN
  const float y = multiply(below, scale);
  if (!(y > kLeastPower)) return 0;
  const int whole = static_cast<int>(add(y, -0.5f));  // the nearest, towards zero at halves
  const float x = add(y, -static_cast<float>(whole));
  const float p = draw_detail::exp2_series(x);
  const auto digits = static_cast<std::uint64_t>(static_cast<std::uint32_t>(p * 0x1p23f));
  return (digits << 17) >> -whole;
}

/// How much of `total` top_p asks for: at least 1, so that one token stays.
DS4_HOST_DEVICE inline std::uint64_t mass_wanted(std::uint64_t total, std::uint64_t top_p) {
  const auto wanted =
      static_cast<std::uint64_t>((static_cast<Uint128>(total) * top_p + 0xFFFFFFFFu) >> 32);
  return wanted == 0 ? 1 : wanted;
}

/// The running sum that the drawn token is the first to exceed.
DS4_HOST_DEVICE inline std::uint64_t draw_target(std::uint64_t total, std::uint64_t uniform) {
  return static_cast<std::uint64_t>((static_cast<Uint128>(total) * uniform) >> 53);
}

}  // namespace ds4
