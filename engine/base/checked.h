#pragma once
// Overflow-safe arithmetic on sizes and offsets that came from outside.
#include <concepts>
#include <cstdint>
#include <optional>

namespace ds4 {

template <std::unsigned_integral T>
constexpr std::optional<T> checked_add(T a, T b) {
  T sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

template <std::unsigned_integral T>
constexpr std::optional<T> checked_mul(T a, T b) {
  T product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

/// True when [offset, offset + bytes) lies inside [0, size), whatever the values.
constexpr bool fits(std::uint64_t offset, std::uint64_t bytes, std::uint64_t size) {
  return offset <= size && bytes <= size - offset;
}

}  // namespace ds4
