// The kernels in plain C++: the reference, and what machines without a better one run.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/cpu/kernels.h"
#include "engine/quant/quant.h"

namespace ds4::cpu {
namespace {

constexpr std::uint32_t kChunk = 1024;  // columns decoded at a time; a multiple of every block
constexpr std::uint32_t kLanes = 8;     // partial sums of a dot product

std::uint32_t x_row(const Job& job, std::uint32_t i) {
  return job.x_rows != nullptr ? job.x_rows[i] : job.first_x + i;
}

float sum_lanes(const float (&lanes)[kLanes]) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

float dot(const float* a, const float* b, std::uint32_t n) {
  float lanes[kLanes] = {};
  std::uint32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  }
  for (; i < n; ++i) lanes[i % kLanes] += a[i] * b[i];
  return sum_lanes(lanes);
}

float dot_quantized(const float* weights, const std::int8_t* groups, const GroupInfo* info,
                    std::uint32_t n) {
  float total = 0;
  for (std::uint32_t group = 0; group < n / kGroup; ++group) {
    const float* w = weights + group * kGroup;
    const std::int8_t* high = groups + group * kGroupBytes;
    const std::int8_t* low = high + kGroup;
    // Scaled before they are added up: sums of weights times q overflow where products do not.
    const float scale = info[group].scale;
    float lanes[kLanes] = {};
    for (std::uint32_t i = 0; i < kGroup; i += kLanes) {
      for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
        const std::int32_t q = kHighUnit * high[i + lane] + low[i + lane];
        lanes[lane] += w[i + lane] * (scale * static_cast<float>(q));
      }
    }
    total += sum_lanes(lanes);
  }
  return total;
}

// Sums dot_chunk(activation row, weights, first column, columns) over the chunks of a row.
template <typename Dot>
void multiply(const Job& job, Dot dot_chunk) {
  float weights[kChunk];
  for (std::uint32_t row = 0; row < job.rows; ++row) {
    const std::byte* src = job.weights + row * job.row_bytes;
    for (std::uint32_t i = 0; i < job.n; ++i) job.y[i * job.y_stride + row] = 0;
    for (std::uint32_t first = 0; first < job.cols; first += kChunk) {
      const std::uint32_t count = std::min(kChunk, job.cols - first);
      quant::dequantize_row(job.type, src + quant::row_bytes(job.type, first), weights, count);
      for (std::uint32_t i = 0; i < job.n; ++i)
        job.y[i * job.y_stride + row] += dot_chunk(x_row(job, i), weights, first, count);
    }
  }
}

void multiply_exact(const Job& job) {
  multiply(job,
           [&job](std::uint32_t x, const float* weights, std::uint32_t first, std::uint32_t count) {
             return dot(weights, job.x.x + x * job.x.x_stride + first, count);
           });
}

void multiply_fast(const Job& job) {
  multiply(job, [&job](std::uint32_t x, const float* weights, std::uint32_t first,
                       std::uint32_t count) {
    const std::byte* record = job.x.records + x * job.x.record_bytes;
    const std::byte* groups = record + first / kGroup * kGroupBytes;
    const auto* info = reinterpret_cast<const GroupInfo*>(record + job.cols / kGroup * kGroupBytes);
    return dot_quantized(weights, reinterpret_cast<const std::int8_t*>(groups),
                         info + first / kGroup, count);
  });
}

// By bits, because every comparison of floats with NaN is false and would lose it.
float largest_magnitude(const float* x, std::uint32_t n) {
  std::uint32_t largest = 0;
  for (std::uint32_t i = 0; i < n; ++i)
    largest = std::max(largest, std::bit_cast<std::uint32_t>(x[i]) & 0x7FFFFFFFu);
  return std::bit_cast<float>(largest);
}

void quantize_row(const float* x, std::uint32_t cols, std::byte* record) {
  auto* high = reinterpret_cast<std::int8_t*>(record);
  std::byte* next_info = record + cols / kGroup * kGroupBytes;
  for (std::uint32_t first = 0; first < cols; first += kGroup, high += kGroupBytes) {
    std::int8_t* low = high + kGroup;
    const float largest = largest_magnitude(x + first, kGroup);
    GroupInfo info{};
    if (!std::isfinite(largest)) {
      std::memset(high, 0, kGroupBytes);
      info.scale = info.scaled_sum = info.scaled_half[0] = info.scaled_half[1] =
          std::numeric_limits<float>::quiet_NaN();
    } else {
      const bool is_zero = largest < kSmallestMagnitude;
      const float inverse = is_zero ? 0.0f : kLargestQ / largest;
      info.scale = is_zero ? 0.0f : largest / kLargestQ;
      std::int32_t sums[2] = {};
      for (std::uint32_t i = 0; i < kGroup; ++i) {
        const auto q = static_cast<std::int32_t>(std::lrint(x[first + i] * inverse));
        // kHighUnit is odd: there are no ties, so that any way of rounding finds the same bytes.
        const long nearest = std::lrint(static_cast<float>(q) * (1.0f / kHighUnit));
        high[i] = static_cast<std::int8_t>(nearest);
        low[i] = static_cast<std::int8_t>(q - kHighUnit * nearest);
        sums[i / 16] += q;
      }
      info.sum = sums[0] + sums[1];
      info.scaled_sum = info.scale * static_cast<float>(info.sum);
      info.scaled_half[0] = info.scale * static_cast<float>(sums[0]);
      info.scaled_half[1] = info.scale * static_cast<float>(sums[1]);
    }
    std::memcpy(next_info, &info, sizeof info);
    next_info += sizeof info;
  }
}

}  // namespace

const Kernels kScalarKernels = {multiply_exact, multiply_fast, quantize_row};

}  // namespace ds4::cpu
