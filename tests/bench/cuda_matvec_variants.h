#pragma once
// Other ways to multiply one row of activations than products.cu's; see cuda_matvec_q8.cuh.
#include <span>

#include "engine/cuda/kernels/launch.h"

namespace ds4::bench {

/// Q8_0 matrices of one size, each with its own activations: y[i] = weights[i] . x[i].
struct Q8Products {
  const std::uint8_t* weights[cuda::kMostProducts];
  cuda::QuantisedRows x[cuda::kMostProducts];
  float* y[cuda::kMostProducts];
  std::uint32_t count, rows, cols;  // of all: how many; of each
};

template <typename Work>
struct Way {
  const char* name;
  void (*run)(cuda::Launcher& launcher, const Work& work, const std::uint16_t* iq2_grid);
  bool multiplies = true;  // or only reads
};
/// Rows of 1,024, 2,048 or a multiple of that many columns.
std::span<const Way<Q8Products>> q8_ways();
/// Of one row with gate and up in IQ2_XXS, 4,096 columns, down in Q2_K, 2,048 columns, and the
/// shared expert in Q8_0.
std::span<const Way<cuda::ExpertProducts>> gate_up_ways();
std::span<const Way<cuda::ExpertProducts>> down_ways();

/// Reads `bytes`, a multiple of 32 KiB, and does nothing with them; `never` is written to if all
/// that a thread reads is 0.
void only_read(cuda::Launcher& launcher, const std::byte* from, std::uint64_t bytes,
               std::uint32_t* never);
/// So many blocks that wait for their predecessor.
void nothing(cuda::Launcher& launcher, unsigned blocks);

}  // namespace ds4::bench
