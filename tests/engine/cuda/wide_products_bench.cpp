// How fast products for many rows are at Flash's sizes, in multiply-adds a second.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <random>
#include <vector>

#include "engine/cuda/device_buffer.h"
#include "engine/cuda/kernels/wide_products.h"
#include "engine/quant/iq2_xxs.h"
#include "engine/quant/quant.h"
#include "tests/engine/cuda/random_tensor.h"

namespace {

using namespace ds4;

/// Kept until the program ends.
template <typename T>
T* device(std::size_t count) {
  static std::vector<cuda::DeviceBuffer<T>> all;
  auto buffer = cuda::device_buffer<T>(count, "a benchmark");
  if (!buffer) {
    fmt::print(stderr, "{}\n", buffer.error().message);
    std::exit(1);
  }
  all.push_back(std::move(*buffer));
  return all.back().data();
}
template <typename T>
T* on_device(const std::vector<T>& values) {
  T* to = device<T>(values.size());
  cudaMemcpy(to, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice);
  return to;
}

std::byte* random_bytes(TensorType type, std::uint64_t cols, std::uint64_t rows, const char* name) {
  TensorInfo info{};
  info.name = name;
  info.type = type;
  info.dims = {cols, rows, 1, 1};
  std::byte* data =
      device<std::byte>(quant::row_bytes(type, static_cast<std::uint32_t>(cols)) * rows + 16);
  test::fill_random(info, 1, data);
  return data;
}
cuda::DeviceMatrix matrix(TensorType type, std::uint32_t rows, std::uint32_t cols,
                          const char* name) {
  return {random_bytes(type, cols, rows, name), quant::row_bytes(type, cols), rows, cols,
          static_cast<std::uint32_t>(type)};
}
cuda::ExpertStack stack(TensorType type, std::uint32_t rows, std::uint32_t cols,
                        std::uint32_t experts, const char* name) {
  cuda::ExpertStack s{matrix(type, rows * experts, cols, name),
                      std::uint64_t{rows} * quant::row_bytes(type, cols)};
  s.first.rows = rows;
  return s;
}

void time(const char* what, double multiply_adds, const std::function<void(cuda::Launcher&)>& run) {
  cuda::Launcher launcher;
  std::vector<float> times;
  cudaEvent_t start, stop;
  cudaEventCreate(&start), cudaEventCreate(&stop);
  for (int i = 0; i < 7; ++i) {
    cudaEventRecord(start);
    run(launcher);
    cudaEventRecord(stop);
    cudaEventSynchronize(stop);
    float ms = 0;
    cudaEventElapsedTime(&ms, start, stop);
    times.push_back(ms);
  }
  const cudaError_t error =
      launcher.error != cudaSuccess ? launcher.error : cudaDeviceSynchronize();
  std::sort(times.begin(), times.end());
  fmt::print("{:32} {:9.3f} ms {:7.1f} T multiply-adds/s  {}\n", what, times[times.size() / 2],
             multiply_adds / times[times.size() / 2] * 1e-9, cudaGetErrorName(error));
  std::fflush(stdout);
}

void bench(std::uint32_t n) {
  constexpr std::uint32_t kE = 4096, kFfn = 2048, kExperts = 256, kUsed = 6;
  fmt::print("{} rows\n", n);
  const std::uint32_t entries = n * kUsed, all = entries + n;
  static const std::uint16_t* grid = on_device(
      std::vector<std::uint16_t>(std::begin(quant::kIq2XxsGrid), std::end(quant::kIq2XxsGrid)));
  TensorInfo half{};
  half.name = "x", half.type = TensorType::kF16, half.dims = {32768, all, 1, 1};
  auto* x = device<__half>(std::size_t{n} * 32768);
  half.dims = {32768, n, 1, 1};
  test::fill_random(half, 1, reinterpret_cast<std::byte*>(x));
  auto* y = device<float>(std::size_t{n} * 32768);
  const auto integers = [&](std::uint32_t rows, std::uint32_t cols) {
    return cuda::QuantisedRows::place(device<std::byte>(cuda::QuantisedRows::bytes(rows, cols)),
                                      rows, cols);
  };
  const auto wide = integers(n, 32768);
  time("quantise 32768 columns", 0,
       [&](cuda::Launcher& launcher) { cuda::quantise_rows(launcher, x, 32768, n, 32768, wide); });
  const auto product = [&](const char* what, TensorType type, std::uint32_t rows,
                           std::uint32_t cols, std::uint32_t groups) {
    const auto in = integers(n, cols * groups);
    cuda::Launcher once;
    cuda::quantise_rows(once, x, 32768, n, cols * groups, in);
    std::vector<cuda::Product> list;
    for (std::uint32_t g = 0; g < groups; ++g) {
      list.push_back({matrix(type, rows, cols, what), nullptr, 0, y + g * rows, rows * groups});
      list.back().integers = in.from_column(g * cols);
    }
    time(what, double{1} * rows * cols * groups * n,
         [&](cuda::Launcher& launcher) { cuda::run_wide_products(launcher, list, n, grid); });
  };
  product("q_a 1024 x 4096, Q8_0", TensorType::kQ8_0, 1024, 4096, 1);
  product("q_b 32768 x 1024, Q8_0", TensorType::kQ8_0, 32768, 1024, 1);
  product("o_a 8 x 1024 x 4096, Q8_0", TensorType::kQ8_0, 1024, 4096, 8);
  product("o_b 4096 x 8192, Q8_0", TensorType::kQ8_0, 4096, 8192, 1);
  product("4096 x 4096, IQ2_XXS", TensorType::kIQ2_XXS, 4096, 4096, 1);
  product("4096 x 4096, Q2_K", TensorType::kQ2_K, 4096, 4096, 1);
  product("4096 x 4096, Q4_K", TensorType::kQ4_K, 4096, 4096, 1);

  const cuda::Product halves{matrix(TensorType::kF16, 8192, 1024, "F16"), x, 32768, y, 8192};
  time("8192 x 1024, F16", 1.0 * 8192 * 1024 * n, [&](cuda::Launcher& launcher) {
    cuda::run_wide_products(launcher, {&halves, 1}, n, grid);
  });
  const cuda::Product compressor{matrix(TensorType::kF16, 2560, 4096, "F16"), x, 32768, y, 2560};
  time("2560 x 4096, F16", 1.0 * 2560 * 4096 * n, [&](cuda::Launcher& launcher) {
    cuda::run_wide_products(launcher, {&compressor, 1}, n, grid);
  });

  std::mt19937 random(1);
  std::vector<std::uint32_t> of_entry(entries), begin(kExperts + 1), expert(kExperts), row(entries);
  for (std::uint32_t& e : of_entry) e = random() % kExperts;
  std::vector<std::uint32_t> order(entries);
  for (std::uint32_t i = 0; i < entries; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return of_entry[a] < of_entry[b]; });
  for (std::uint32_t i = 0; i < entries; ++i) row[i] = order[i] / kUsed, ++begin[of_entry[i] + 1];
  for (std::uint32_t e = 0; e < kExperts; ++e) expert[e] = e, begin[e + 1] += begin[e];
  cuda::ExpertProducts e;
  e.gate = stack(TensorType::kIQ2_XXS, kFfn, kE, kExperts, "gate");
  e.up = stack(TensorType::kIQ2_XXS, kFfn, kE, kExperts, "up");
  e.down = stack(TensorType::kQ2_K, kE, kFfn, kExperts, "down");
  e.shared_gate = matrix(TensorType::kQ8_0, kFfn, kE, "shared gate");
  e.shared_up = matrix(TensorType::kQ8_0, kFfn, kE, "shared up");
  e.shared_down = matrix(TensorType::kQ8_0, kE, kFfn, "shared down");
  e.groups.count = on_device(std::vector<std::uint32_t>{kExperts});
  e.groups.expert = on_device(expert), e.groups.begin = on_device(begin);
  e.groups.entry_row = on_device(row);
  e.rows = n, e.used = kUsed, e.n_expert = kExperts, e.limit = 10;
  e.x_integers = integers(n, kE);
  e.hidden = device<__half>(std::size_t{all} * kFfn);
  e.hidden_integers = integers(all, kFfn);
  e.down_out = device<float>(std::size_t{all} * kE);
  cuda::Launcher once;
  cuda::quantise_rows(once, x, 32768, n, kE, e.x_integers);
  time("experts' gate and up, IQ2_XXS", 2.0 * kFfn * kE * all,
       [&](cuda::Launcher& launcher) { cuda::run_wide_gate_up(launcher, e, grid); });
  time("quantise hidden", 0, [&](cuda::Launcher& launcher) {
    cuda::quantise_rows(launcher, e.hidden, kFfn, all, kFfn, e.hidden_integers);
  });
  time("experts' down, Q2_K", 1.0 * kFfn * kE * all,
       [&](cuda::Launcher& launcher) { cuda::run_wide_down(launcher, e, grid); });
}

}  // namespace

int main() {
  bench(2048);
  bench(8192);
  return 0;
}
