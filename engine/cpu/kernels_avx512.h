#pragma once
// Kernels that fill kAvx512Kernels, each in a file compiled for AVX-512. Declarations only.
#include "engine/cpu/kernels.h"

namespace ds4::cpu {

void multiply_exact_avx512(const Job& job);
void multiply_fast_avx512(const Job& job);
void quantize_row_avx512(const float* x, std::uint32_t cols, std::byte* record);

}  // namespace ds4::cpu
