#pragma once
// Products for many rows of activations, with weights that are integers or halves: what
// run_products(), run_gate_up() and run_down() of launch.h give, bit for bit, in other kernels.
#include "engine/cuda/kernels/launch.h"

namespace ds4::cuda {

/// Rows from which on the kernels of this file are faster.
inline constexpr std::uint32_t kWideFrom = 64;

/// Whether types, sizes and the device allow it.
bool wide_supports(const Product& product);
bool wide_supports(const ExpertProducts& experts);

void run_wide_products(Launcher& launcher, std::span<const Product> products, std::uint32_t n,
                       const std::uint16_t* iq2_grid);
void run_wide_gate_up(Launcher& launcher, const ExpertProducts& experts,
                      const std::uint16_t* iq2_grid);
void run_wide_down(Launcher& launcher, const ExpertProducts& experts,
                   const std::uint16_t* iq2_grid);

// wide_halves.cu: the part of run_wide_products() whose weights are halves.
bool wide_halves_support(const Product& product);
void run_wide_halves(Launcher& launcher, std::span<const Product> products, std::uint32_t n);

}  // namespace ds4::cuda
