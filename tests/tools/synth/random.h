#pragma once
// Counter-based random numbers: word `index` of stream `key`, in any order and on any thread.
#include <cstdint>
#include <string_view>

namespace ds4::synth {

/// A permutation of 64-bit words that mixes every bit into every other (the finaliser of
/// SplitMix64, Steele et al. 2014).
constexpr std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

constexpr std::uint64_t random_word(std::uint64_t key, std::uint64_t index) {
  return mix(key + (index + 1) * 0x9E3779B97F4A7C15ull);
}

/// A stream of its own for each name.
constexpr std::uint64_t stream_key(std::uint64_t seed, std::string_view name) {
  std::uint64_t key = mix(seed);
  for (const char c : name) key = mix(key ^ static_cast<unsigned char>(c));
  return key;
}

}  // namespace ds4::synth
