#include "tests/engine/cuda/bad_kernel.h"

namespace ds4::test {
namespace {

__global__ void write_nowhere(int* nowhere) {
  *nowhere = 1;
}

}  // namespace

void lose_device() {
  write_nowhere<<<1, 1>>>(nullptr);
}

}  // namespace ds4::test
