#pragma once
// Kernels that fill kAvx2Kernels, each in a file compiled for AVX2, FMA and F16C. Declarations
// only.
#include "engine/cpu/kernels.h"

namespace ds4::cpu {

void multiply_exact_avx2(const Job& job);
void multiply_fast_avx2(const Job& job);
void quantize_row_avx2(const float* x, std::uint32_t cols, std::byte* record);

}  // namespace ds4::cpu
