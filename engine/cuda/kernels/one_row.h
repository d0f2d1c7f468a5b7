#pragma once
// Products with a single row of activations, as a session decodes that is alone: what
// run_products() of launch.h gives, bit for bit, in kernels that one_row.cuh explains. What they do
// not support is left to products.cu.
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

}  // namespace ds4::cuda
