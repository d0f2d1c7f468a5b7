#pragma once
// Experts of few rows of activations: what run_gate_up() and run_down() of launch.h give, bit for
// bit, in kernels that have the copy engine read weights as those of one_row.h, under its
// conditions. What they do not support is left to products.cu.
//
// Few are rows as long as they have half as many entries as there are experts, or it is one row:
// an expert has a single row then, if any, more often than not. Where there are several rows, the
// shared expert, which has them all, is left out. A token may have an expert twice.
#include "engine/cuda/kernels/launch.h"

namespace ds4::cuda {

/// Gate and up in IQ2_XXS of 4,096 columns and a multiple of 4 rows; of a single row the shared
/// expert's, too, in Q8_0.
bool few_rows_supports_gate_up(const Launcher& launcher, const ExpertProducts& experts);
void run_few_rows_gate_up(Launcher& launcher, const ExpertProducts& experts,
                          const std::uint16_t* iq2_grid);
/// Down in Q2_K of 2,048 columns and a multiple of 128 rows, the shared expert's in Q8_0.
bool few_rows_supports_down(const Launcher& launcher, const ExpertProducts& experts);
void run_few_rows_down(Launcher& launcher, const ExpertProducts& experts);

}  // namespace ds4::cuda
