#pragma once
// Cached rows in memory: where row i lies, and in what coding. What reads rows asks for floats and
// gives a place to decode into; a store of floats hands out its own memory instead.
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ds4 {

class RowStore {
 public:
  RowStore() = default;
  /// Rows of `n` floats from `base` on, one behind the other.
  RowStore(std::byte* base, std::uint32_t n) : base_(base), n_(n) {}

  static std::uint64_t row_bytes(std::uint32_t n) { return std::uint64_t{n} * sizeof(float); }

  void put(std::uint64_t row, const float* values) {
    std::memcpy(base_ + row * row_bytes(n_), values, row_bytes(n_));
  }
  /// The row's floats: in the store itself, or decoded into `scratch`.
  const float* get(std::uint64_t row, float* /*scratch*/) const {
    return reinterpret_cast<const float*>(base_ + row * row_bytes(n_));
  }

 private:
  std::byte* base_ = nullptr;
  std::uint32_t n_ = 0;
};

}  // namespace ds4
