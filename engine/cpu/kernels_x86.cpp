// The tables of the vectorised kernels, in a file that every x86-64 machine can run.
#include "engine/cpu/kernels_avx2.h"
#include "engine/cpu/kernels_avx512.h"

namespace ds4::cpu {

const Kernels kAvx2Kernels = {multiply_exact_avx2, multiply_fast_avx2, quantize_row_avx2};
const Kernels kAvx512Kernels = {multiply_exact_avx512, multiply_fast_avx512, quantize_row_avx512};

}  // namespace ds4::cpu
