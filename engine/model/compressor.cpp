#include "engine/model/compressor.h"

#include <cstring>

namespace ds4 {

void Compressor::begin_block(const cpu::SoftmaxSums& sums, std::uint32_t position,
                             std::uint32_t begin, std::uint32_t n) const {
  const cpu::SoftmaxSums first = sums.at(begin);
  if (ratio == 4) {
    const cpu::SoftmaxSums second = sums.at(dim + begin);
    if (position == 0) {
      ops.sums_clear(second, n);  // block 0 has no previous half
    } else {
      std::memcpy(second.max, first.max, n * sizeof(float));
      std::memcpy(second.sum, first.sum, n * sizeof(float));
      std::memcpy(second.acc, first.acc, n * sizeof(float));
    }
  }
  ops.sums_clear(first, n);
}

void Compressor::advance(const cpu::SoftmaxSums& sums, std::uint32_t position, std::uint32_t count,
                         const float* kv, const float* gate, const float* ape, std::uint32_t begin,
                         std::uint32_t end, float* rows) const {
  const std::uint32_t n = end - begin;
  const std::size_t wide = width();
  for (std::uint32_t i = 0; i < count; ++i, ++position) {
    if (position % ratio == 0) begin_block(sums, position, begin, n);
    const float* bias = ape + (position % ratio) * wide;
    for (std::size_t half = begin; half < wide; half += dim) {
      ops.sums_add(sums.at(half), kv + i * wide + half, gate + i * wide + half, bias + half, n);
    }
    if (ends_block(position))
      ops.sums_finish(sums.at(wide - dim + begin), n, rows + std::size_t{i} * dim + begin);
  }
}

}  // namespace ds4
