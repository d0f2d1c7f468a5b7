#pragma once
// Pooling `ratio` tokens into one row, channel by channel, by softmax over their gates.
//
// With ratio 128 a row pools its block's tokens. With ratio 4 each token brings two halves, and row
// b pools the previous block's first halves with its own block's second halves: so while a block
// runs, its first halves build up the sums that the next block's row will start from. Sums go token
// by token in order of position, so it does not matter where a call ends.
#include <cstdint>

#include "engine/cpu/ops.h"

namespace ds4 {

struct Compressor {
  const cpu::Ops& ops;
  std::uint32_t dim = 0;    // channels of a row
  std::uint32_t ratio = 0;  // 4 (overlapping) or 128

  static constexpr std::uint32_t width(std::uint32_t dim, std::uint32_t ratio) {
    return ratio == 4 ? 2 * dim : dim;
  }
  std::uint32_t width() const { return width(dim, ratio); }

  /// Adds `count` tokens from `position` on to channels [begin, end) of the sums. `kv` and `gate`
  /// are {count, width}, `ape` is {ratio, width}. Where a token ends a block, its row's channels
  /// are written to `rows` {count, dim} at that token's place.
  void advance(const cpu::SoftmaxSums& sums, std::uint32_t position, std::uint32_t count,
               const float* kv, const float* gate, const float* ape, std::uint32_t begin,
               std::uint32_t end, float* rows) const;

  bool ends_block(std::uint32_t position) const { return (position + 1) % ratio == 0; }

 private:
  void begin_block(const cpu::SoftmaxSums& sums, std::uint32_t position, std::uint32_t begin,
                   std::uint32_t n) const;
};

}  // namespace ds4
