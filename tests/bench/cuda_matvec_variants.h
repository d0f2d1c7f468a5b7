#pragma once
// Products with one row in other shapes than the engine's, and kernels that do not multiply.
#include <span>

#include "engine/cuda/kernels/launch.h"

namespace ds4::bench {

/// Q8_0 matrices of one size, each with its own activations: y[i] = weights[i] . x[i]. Rows of
/// 1,024, 2,048, 4,096 or 8,192 columns, aligned to 16 bytes.
struct Q8Products {
  const std::uint8_t* weights[cuda::kMostProducts];
  cuda::QuantisedRows x[cuda::kMostProducts];
  float* y[cuda::kMostProducts];
  std::uint32_t count, rows, cols;  // of all: how many; of each
};
/// A way to compute them by the pieces of engine/cuda/kernels/one_row.cuh.
struct Q8Way {
  const char* name;
  void (*run)(cuda::Launcher& launcher, const Q8Products& products);
  bool multiplies = true;  // or only copies the weights
};
std::span<const Q8Way> q8_ways();

/// Reads `bytes`, a multiple of 32 KiB, and does nothing with them; `never` is written to if all
/// that a thread reads is 0.
void only_read(cuda::Launcher& launcher, const std::byte* from, std::uint64_t bytes,
               std::uint32_t* never);
/// So many blocks that wait for their predecessor.
void nothing(cuda::Launcher& launcher, unsigned blocks);

}  // namespace ds4::bench
