#pragma once
// Block formats: how a few bits become a weight.
//
// Every format cuts a row into blocks and stores, per block, small integers and the scales that
// turn them back into floats. One header holds one format: its layout as ggml defines it, the size
// pinned by static_assert, and a scalar decoder written to be read. That decoder is the definition
// of the format in this project: each vectorised kernel is tested against it, so nothing here is
// tuned.
//
// A row of `cols` values is cols / kValues consecutive blocks; rows follow one another without
// padding. Blocks are aligned to two bytes at most, and MXFP4 to one.
#include <cstddef>
#include <cstdint>

#include "engine/gguf/tensor_type.h"

namespace ds4::quant {

/// Values that a row of this type must be a multiple of (1 for plain floats); 0 for types that hold
/// no weights (I32).
std::uint32_t block_values(TensorType type);

/// Bytes of `cols` values; cols must be a multiple of block_values(type).
std::size_t row_bytes(TensorType type, std::uint32_t cols);

/// Decodes `cols` values of one row. The type must hold weights and cols be a multiple of its
/// block. `src` needs no alignment.
void dequantize_row(TensorType type, const std::byte* src, float* dst, std::uint32_t cols);

/// Encodes one row, for the formats where rounding to nearest is all there is to it: F32, F16,
/// BF16, Q8_0 and MXFP4. Returns false for the others, leaving dst alone.
bool quantize_row(TensorType type, const float* src, std::byte* dst, std::uint32_t cols);

}  // namespace ds4::quant
