#pragma once
// Random weights straight in their packed formats: nothing is quantised, because any bits are valid
// quants; only the scales are chosen, so that the weights they stand for have zero mean and a
// variance of one over the row length. The bytes of a tensor depend on the seed, its name and their
// place alone, so any part can be made on any thread.
#include <cstddef>
#include <cstdint>
#include <span>

#include "tests/tools/synth/plan.h"

namespace ds4::synth {

/// The unit of work: a whole number of blocks, about 8 MiB.
std::uint64_t chunk_bytes(TensorType type);

/// Bytes [begin, begin + out.size()) of the tensor's data. `begin` is a multiple of chunk_bytes().
void fill(const Plan& plan, const Tensor& tensor, std::uint64_t begin, std::span<std::byte> out);

}  // namespace ds4::synth
