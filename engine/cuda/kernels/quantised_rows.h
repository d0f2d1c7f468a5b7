#pragma once
// Activation rows as integers, for products with weights that are small integers themselves.
//
// A value is q * scale with a scale of each 32 columns and |q| <= 16319, that is 15 bits; q is kept
// as two planes of bytes, q = 128 * hi + lo, because matrix instructions multiply bytes. Formats
// whose blocks have minimums also need sums over 16 columns: these are values again, 16 in 256
// columns, and become q * scale in the same way. Values are halves before they become integers, so
// that it does not matter whether a row passed through memory as halves in between.
#include <cstddef>
#include <cstdint>

#include "engine/gguf/tensor_type.h"

#ifdef __CUDACC__
#define DS4_HOST_DEVICE __host__ __device__
#else
#define DS4_HOST_DEVICE
#endif

namespace ds4::cuda {

inline constexpr std::uint32_t kQuantColumns = 32;      // share a scale
inline constexpr std::uint32_t kSumColumns = 16;        // of a sum
inline constexpr std::uint32_t kSumBlockColumns = 256;  // whose sums share a scale

/// Whether products with weights of `type` are products in integers, and whether they need sums.
DS4_HOST_DEVICE constexpr bool multiplies_integers(std::uint32_t type) {
  const auto t = static_cast<TensorType>(type);
  return t == TensorType::kQ8_0 || t == TensorType::kQ4_K || t == TensorType::kQ2_K ||
         t == TensorType::kIQ2_XXS;
}
DS4_HOST_DEVICE constexpr bool has_minimums(std::uint32_t type) {
  const auto t = static_cast<TensorType>(type);
  return t == TensorType::kQ4_K || t == TensorType::kQ2_K;
}

/// Rows of `stride` columns each, on the device. A stride is a multiple of 32, and of 256 where
/// there are sums.
struct QuantisedRows {
  std::int8_t *hi = nullptr, *lo = nullptr;          // [rows][stride]
  float* scale = nullptr;                            // [rows][stride / 32]
  std::int8_t *sum_hi = nullptr, *sum_lo = nullptr;  // [rows][stride / 16]; null: no sums
  float* sum_scale = nullptr;                        // [rows][stride / 256]
  std::uint32_t stride = 0;

  DS4_HOST_DEVICE static constexpr std::uint64_t bytes(std::uint64_t rows, std::uint32_t stride) {
    const std::uint64_t with_sums = (stride + kSumBlockColumns - 1) / kSumBlockColumns;
    return rows * with_sums * kBytesOfBlock;
  }
  /// Lays rows out in `memory` of bytes(rows, stride), aligned to 256 bytes. Sums have their place
  /// if the stride allows them.
  DS4_HOST_DEVICE static QuantisedRows place(std::byte* memory, std::uint64_t rows,
                                             std::uint32_t stride) {
    QuantisedRows at;
    at.stride = stride;
    auto* bytes = reinterpret_cast<std::int8_t*>(memory);
    at.hi = bytes, bytes += rows * stride;
    at.lo = bytes, bytes += rows * stride;
    at.scale = reinterpret_cast<float*>(bytes), bytes += rows * (stride / kQuantColumns) * 4;
    if (stride % kSumBlockColumns != 0) return at;
    at.sum_hi = bytes, bytes += rows * (stride / kSumColumns);
    at.sum_lo = bytes, bytes += rows * (stride / kSumColumns);
    at.sum_scale = reinterpret_cast<float*>(bytes);
    return at;
  }

  /// The row of that number, without its sums.
  DS4_HOST_DEVICE QuantisedRows only_row(std::size_t row) const {
    QuantisedRows at;
    at.hi = hi + row * stride, at.lo = lo + row * stride;
    at.scale = scale + row * (stride / kQuantColumns);
    at.stride = stride;
    return at;
  }

  /// The same rows from `column` on, a multiple of 32 (of 256 where sums are wanted).
  QuantisedRows from_column(std::uint32_t column) const {
    QuantisedRows at = *this;
    at.hi += column, at.lo += column, at.scale += column / kQuantColumns;
    if (at.sum_hi == nullptr) return at;
    at.sum_hi += column / kSumColumns, at.sum_lo += column / kSumColumns;
    at.sum_scale += column / kSumBlockColumns;
    return at;
  }

 private:
  static constexpr std::uint64_t kBytesOfBlock = 2 * kSumBlockColumns +
                                                 4 * kSumBlockColumns / kQuantColumns +
                                                 2 * kSumBlockColumns / kSumColumns + 4;
};

}  // namespace ds4::cuda
