#pragma once
// The indexer's scores straight from FP4 codes.
//
// Twice an E2M1 value is one of 0, 1, 2, 3, 4, 6, 8 and 12 with a sign, and a block's scale is a
// power of two. So the product of two blocks is an exact integer times a power of two, and rounding
// begins where blocks and then heads are added up as floats, in ascending order and with every
// product rounded before it is added. A score is therefore the same bits with every instruction
// set.
//
// What multiplies bytes wants one side unsigned: keys are spread out with 12 added to every value,
// and a query block's `offset` takes 12 times the block's sum off again.
#include <cstddef>
#include <cstdint>

#include "engine/cpu/attention.h"

namespace ds4::cpu {

// FP4 E2M1 (0, 0.5, 1, 1.5, 2, 3, 4, 6 and a sign) in blocks with a power-of-two scale.
inline constexpr std::size_t kFp4Block = 32;
inline constexpr float kFp4Largest = 6.0f;

/// A block of an index query.
struct Fp4QueryBlock {
  std::int8_t values[kFp4Block];  // doubled
  std::int32_t offset;            // -12 * the sum of `values`
  float scale;                    // of `values`
};

/// Rows as they are cached: `dim` values each, a multiple of kFp4Block, and `stride` bytes from one
/// row to the next.
struct Fp4Rows {
  const std::uint8_t* codes = nullptr;     // byte j of a block's 16: value j low, value j + 16 high
  const std::int8_t* exponents = nullptr;  // block i's scale is 2^exponents[i]; readable by fours
  std::size_t stride = 0;
  std::size_t dim = 0;
};

/// Keys spread out for scoring, so that a query's next four values meet theirs in neighbouring
/// lanes.
struct Fp4Keys {
  std::uint8_t* values = nullptr;  // {dim / 4, kKeyTile, 4}: 12 + the doubled value
  float* scales = nullptr;         // {dim / kFp4Block, kKeyTile}, of the doubled values

  /// In `memory`, which has room for kKeyTile * dim floats.
  static Fp4Keys in(float* memory, std::size_t dim) {
    return {reinterpret_cast<std::uint8_t*>(memory), memory + kKeyTile * dim / 4};
  }
};

/// One row's index queries against one tile of keys.
struct Fp4IndexTile {
  const Fp4QueryBlock* q = nullptr;  // {heads, dim / kFp4Block}
  const float* weights = nullptr;    // {heads}
  std::size_t heads = 0;
  std::size_t dim = 0;
  Fp4Keys keys;
  std::size_t count = 0;    // 1..kKeyTile of the spread ones
  float* scores = nullptr;  // {kKeyTile}: sum over heads of relu(q . k) * weight
};

struct Fp4IndexOps {
  /// Blocks of a query of `n` values that are rounded already; others are cut to integers.
  void (*code_query)(const float* q, std::size_t n, Fp4QueryBlock* blocks);
  /// The first `count` rows, 1..kKeyTile; behind them the last one stands repeated.
  void (*spread)(const Fp4Rows& rows, std::size_t count, const Fp4Keys& keys);
  void (*score)(const Fp4IndexTile& tile);
};

}  // namespace ds4::cpu
