#pragma once
// Inputs and outputs of single kernels: random values, their way to the device and back.
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "engine/cuda/device_buffer.h"
#include "engine/cuda/kernels/launch.h"

namespace ds4::test {

/// An array in device memory, from and to a vector.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(std::size_t count) : OnDevice(std::vector<T>(count)) {}
  explicit OnDevice(const std::vector<T>& values) : count_(values.size()) {
    auto buffer = cuda::device_buffer<T>(count_, "a test");
    EXPECT_TRUE(buffer) << buffer.error().message;
    if (buffer) buffer_ = std::move(*buffer);
    EXPECT_EQ(cudaMemcpy(data(), values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  T* data() const { return buffer_.data(); }
  operator T*() const { return data(); }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), data(), count_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }

 private:
  std::size_t count_;
  cuda::DeviceBuffer<T> buffer_;
};

class KernelTest : public testing::Test {
 public:
  std::vector<float> normal(std::size_t count, float size = 1, float middle = 0) {
    std::normal_distribution<float> distribution(middle, size);
    std::vector<float> values(count);
    for (float& value : values) value = distribution(engine_);
    return values;
  }
  std::vector<__half> halves(std::size_t count, float size = 1) {
    std::vector<__half> values;
    for (const float value : normal(count, size)) values.push_back(__float2half_rn(value));
    return values;
  }
  std::mt19937_64& engine() { return engine_; }
  /// Rows of `cols` as integers; what kernels write beside halves.
  cuda::QuantisedRows integers(std::size_t rows, std::uint32_t cols) {
    memory_.emplace_back(cuda::QuantisedRows::bytes(rows, cols));
    return cuda::QuantisedRows::place(memory_.back().data(), rows, cols);
  }

 protected:
  void finish() const {
    ASSERT_EQ(launcher_.error, cudaSuccess) << cudaGetErrorString(launcher_.error);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  cuda::Launcher launcher_;
  std::mt19937_64 engine_{7};

 private:
  std::vector<OnDevice<std::byte>> memory_;
};

/// |a - b| / |b| of two ranges of numbers or halves.
template <typename A, typename B>
double relative_error(const A& a, const B& b) {
  EXPECT_EQ(std::size(a), std::size(b));
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < std::size(b); ++i) {
    const auto x = static_cast<double>(static_cast<float>(a[i]));
    const auto y = static_cast<double>(static_cast<float>(b[i]));
    difference += (x - y) * (x - y);
    size += y * y;
  }
  return std::sqrt(difference / size);
}

/// A sum of floats in another order, and a few of their functions.
inline constexpr double kFloatError = 3e-6;
/// The same, rounded to halves: 2^-11 / sqrt(3) of each value on average, and what that is of
/// values whose errors are no smaller where they are.
inline constexpr double kHalfError = 4e-4;

}  // namespace ds4::test
