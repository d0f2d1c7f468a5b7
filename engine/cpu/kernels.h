#pragma once
// The seam between products as the model asks for them (linear.h) and the loops of one instruction
// set. A kernel multiplies a rectangle, some rows of one matrix by some activation rows, on the
// calling thread. Private to this folder.
//
// Every translation unit that is compiled for an instruction set includes this file, so it holds
// plain data only: an inline function here could be emitted with instructions that the machine
// running the other files does not have.
#include <cstddef>
#include <cstdint>

#include "engine/cpu/isa.h"
#include "engine/gguf/tensor_type.h"

namespace ds4::cpu {

/// Values that share one scale of a quantised activation row.
inline constexpr std::uint32_t kGroup = 32;
/// A quantised value is an integer q in two bytes, q = kHighUnit * high + low with both in
/// [-127, 127]. So a kernel is two products of bytes with the same unpacked weights, and what holds
/// for one byte (no -128, whose negation does not fit) holds for both. With a unit of 256 the low
/// byte would need -128.
inline constexpr std::int32_t kHighUnit = 255;
inline constexpr std::int32_t kLargestQ = 127 * kHighUnit + 127;
/// Of a group in a record: all its high bytes, then all its low ones.
inline constexpr std::uint32_t kGroupBytes = 2 * kGroup;
// The sum of a group fits into 32 bits: unpacked weights are bytes, and so are their offsets.
static_assert(kGroup * std::int64_t{kLargestQ} * 255 < INT32_MAX);
/// A group whose values are all smaller counts as zero: its scale would be subnormal.
inline constexpr float kSmallestMagnitude = 1e-33f;

/// What products need of 32 quantised values q beside the values: sums serve the formats whose
/// weights are stored with an offset, so that they need no second pass over q.
struct GroupInfo {
  float scale;           // value = scale * q
  std::int32_t sum;      // of q
  float scaled_sum;      // scale * sum
  float scaled_half[2];  // the same of the first and the last 16 values
};
static_assert(sizeof(GroupInfo) == 20);

/// Activation rows. A record is one quantised row: cols / kGroup groups of kGroupBytes,
/// then as many GroupInfo.
struct ActivationRows {
  const float* x = nullptr;  // {n, cols}, rows x_stride floats apart
  std::size_t x_stride = 0;
  const std::byte* records = nullptr;  // null where nothing was quantised
  std::size_t record_bytes = 0;        // from one record to the next
};

/// y[i * y_stride + r] = weights row r . activation row (x_rows ? x_rows[i] : first_x + i).
struct Job {
  TensorType type = TensorType::kF32;
  const std::byte* weights = nullptr;
  std::size_t row_bytes = 0;
  std::uint32_t rows = 0;
  std::uint32_t cols = 0;
  ActivationRows x;
  const std::uint32_t* x_rows = nullptr;
  std::uint32_t first_x = 0;
  std::uint32_t n = 0;
  float* y = nullptr;
  std::size_t y_stride = 0;
};

struct Kernels {
  /// Decoded weights times float activations; any type of weights.
  void (*multiply_exact)(const Job&);
  /// Quantised weights times quantised activations. Only for types in blocks.
  void (*multiply_fast)(const Job&);
  /// Writes the record of one row; cols is a multiple of kGroup. A group with a value that is not
  /// finite gets a scale that is not finite, so that its products are not finite either.
  void (*quantize_row)(const float* x, std::uint32_t cols, std::byte* record);
};

extern const Kernels kScalarKernels;
#if defined(DS4_X86_KERNELS)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

}  // namespace ds4::cpu
