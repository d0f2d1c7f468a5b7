#include <cuda_fp16.h>

#include <cmath>
#include <string_view>

#include "tests/engine/cuda/random_tensor.h"

namespace ds4::test {
namespace {

__device__ std::uint32_t hash(std::uint64_t i) {
  i = (i + 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull;
  i = (i ^ i >> 30) * 0x94D049BB133111EBull;
  return static_cast<std::uint32_t>(i ^ i >> 32);
}
__device__ float symmetric(std::uint32_t bits) {  // -1..1
  return static_cast<float>(bits) * 0x1p-31f - 1.0f;
}
__device__ void put_half(std::uint8_t* to, float value) {
  const __half h = __float2half_rn(value);
  const auto bits = __half_as_ushort(h);
  to[0] = bits & 255, to[1] = bits >> 8;
}

/// One thread a block of the format; `size` is the wanted standard deviation.
__global__ void fill(TensorType type, std::uint64_t blocks, std::uint32_t block_bytes, float size,
                     float constant, std::uint32_t experts, std::uint64_t seed,
                     std::uint8_t* data) {
  const std::uint64_t step = std::uint64_t{gridDim.x} * blockDim.x;
  for (std::uint64_t b = blockIdx.x * std::uint64_t{blockDim.x} + threadIdx.x; b < blocks;
       b += step) {
    std::uint8_t* at = data + b * block_bytes;
    const std::uint64_t key = seed + b * 64;
    switch (type) {
      case TensorType::kF32:
        *reinterpret_cast<float*>(at) =
            constant != 0 ? constant : symmetric(hash(key)) * size * 1.7f;
        break;
      case TensorType::kF16:
        *reinterpret_cast<__half*>(at) =
            __float2half_rn(constant != 0 ? constant : symmetric(hash(key)) * size * 1.7f);
        break;
      case TensorType::kBF16:
        *reinterpret_cast<std::uint16_t*>(at) =
            __float_as_uint(symmetric(hash(key)) * size * 1.7f) >> 16;
        break;
      case TensorType::kI32:
        *reinterpret_cast<std::int32_t*>(at) = static_cast<int>(hash(key) % experts);
        break;
      default:
        for (std::uint32_t i = 0; i < block_bytes; ++i)
          at[i] = static_cast<std::uint8_t>(hash(key + i / 4) >> 8 * (i % 4));
        if (type == TensorType::kQ8_0) put_half(at, size / 74);
        if (type == TensorType::kIQ2_XXS) put_half(at, size / 50);
        if (type == TensorType::kQ2_K) put_half(at + 80, size / 10), put_half(at + 82, size / 7);
        if (type == TensorType::kQ4_K) put_half(at, size / 180), put_half(at + 2, size / 25);
        if (type == TensorType::kMXFP4)
          at[0] = static_cast<std::uint8_t>(127 + static_cast<int>(log2f(size / 3)));
    }
  }
}

}  // namespace

cudaError_t fill_random(const TensorInfo& info, std::uint32_t experts, std::byte* data) {
  const auto traits = *traits_of(info.type);
  const std::uint64_t values = info.dims[0] * info.dims[1] * info.dims[2] * info.dims[3];
  const std::string_view name = info.name;
  const bool one = name.find("norm") != name.npos || name.find("scale") != name.npos;
  std::uint64_t seed = 0;
  for (const char c : name) seed = seed * 1000003 + static_cast<std::uint8_t>(c);
  const bool vector = info.dims[1] == 1;  // biases, sinks
  const float size = vector ? 0.1f : 1.0f / std::sqrt(static_cast<float>(info.dims[0]));
  fill<<<4096, 256>>>(info.type, values / traits.block_values, traits.block_bytes, size,
                      one ? 1.0f : 0.0f, experts, seed << 20,
                      reinterpret_cast<std::uint8_t*>(data));
  return cudaGetLastError();
}

}  // namespace ds4::test
