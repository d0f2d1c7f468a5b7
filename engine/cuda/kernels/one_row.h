#pragma once
// Products with a single row of activations, as a session decodes that is alone: what
// run_products(), run_gate_up() and run_down() of launch.h give, bit for bit, in kernels that
// one_row.cuh explains. What they do not support is left to products.cu.
//
// All of them have the copy engine read weights, at addresses that are multiples of 16 bytes, and
// ask for launcher.device_weights: such reads of the host's memory were never tried. And sixteen
// warps and their weights must fit a multiprocessor, so that some copy while others multiply:
// Hopper's have 227 KB, while GB10 has 99 KB and keeps to products.cu.
#include <span>

#include "engine/cuda/kernels/launch.h"

namespace ds4::cuda {

/// Q8_0 of 1,024, 2,048, 4,096 or 8,192 columns; F16 of 1,024, 2,048 or 4,096, unless the result
/// becomes integers. Rows are a multiple of what a block computes: 65,536 weights in Q8_0 (twice as
/// many where the result becomes integers, a multiple of 32 rows then), 32,768 in F16.
bool one_row_supports(const Launcher& launcher, const Product& product);
/// `products`: supported ones, up to kMostProducts, whose columns agree.
void run_one_row(Launcher& launcher, std::span<const Product> products);

/// `experts.rows` is 1. Gate and up in IQ2_XXS of 4,096 columns and a multiple of 32 rows, the
/// shared expert's in Q8_0. A token may have an expert twice.
bool one_row_supports_gate_up(const Launcher& launcher, const ExpertProducts& experts);
void run_one_row_gate_up(Launcher& launcher, const ExpertProducts& experts,
                         const std::uint16_t* iq2_grid);
/// `experts.rows` is 1. Down in Q2_K of 2,048 columns and a multiple of 128 rows, the shared
/// expert's in Q8_0.
bool one_row_supports_down(const Launcher& launcher, const ExpertProducts& experts);
void run_one_row_down(Launcher& launcher, const ExpertProducts& experts);

}  // namespace ds4::cuda
