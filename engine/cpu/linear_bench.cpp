// What the products reach: bytes of weights per second for one activation row (decoding),
// operations per second for 64 (prefill).
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "engine/cpu/linear.h"
#include "engine/gguf/tensor_type.h"
#include "engine/quant/quant.h"

namespace ds4::cpu {
namespace {

constexpr TensorType kTypes[] = {TensorType::kF32,     TensorType::kF16,  TensorType::kBF16,
                                 TensorType::kQ8_0,    TensorType::kQ4_K, TensorType::kQ2_K,
                                 TensorType::kIQ2_XXS, TensorType::kMXFP4};

struct Shape {
  const char* name;
  std::uint32_t rows, cols;
};
// Matrices in a list, so that one run touches as much memory as a layer of a model does.
constexpr Shape kSmall = {"256x256", 256, 256}, kLarge = {"2048x4096", 2048, 4096};

void run(benchmark::State& state, TensorType type, Isa isa, Precision precision, Shape shape,
         std::uint32_t n, unsigned threads, std::size_t matrices) {
  ThreadPool pool(threads);
  const std::size_t bytes = shape.rows * quant::row_bytes(type, shape.cols);
  std::vector<std::byte> weights(bytes * matrices);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = static_cast<std::byte>((i * 2654435761u >> 13) & 0x3F);
    // Scales of a usual size: subnormal products are slow, and no model has them.
    if (type == TensorType::kMXFP4 && i % 17 == 0) weights[i] = std::byte{120};
  }
  std::vector<float> x(std::size_t{n} * shape.cols, 0.5f),
      y(std::size_t{n} * shape.rows * matrices);
  Activations rows(n, shape.cols, precision);
  rows.prepare(pool, isa, x.data(), n, shape.cols, shape.cols);
  std::vector<Product> products;
  for (std::size_t i = 0; i < matrices; ++i) {
    const Matrix matrix{type, shape.rows, shape.cols, weights.data() + i * bytes};
    products.push_back({matrix, &rows, {}, y.data() + i * n * shape.rows, shape.rows});
  }
  for (auto _ : state) {
    run_products(pool, isa, precision, products);
    benchmark::ClobberMemory();
  }
  const double runs = static_cast<double>(state.iterations());
  state.counters["GB/s"] = benchmark::Counter(runs * static_cast<double>(weights.size()) * 1e-9,
                                              benchmark::Counter::kIsRate);
  const double operations = 2.0 * n * shape.rows * shape.cols * static_cast<double>(matrices);
  state.counters["GOP/s"] =
      benchmark::Counter(runs * operations * 1e-9, benchmark::Counter::kIsRate);
}

void prepare(benchmark::State& state, Isa isa) {
  ThreadPool pool(1);
  const std::uint32_t n = 64, cols = 4096;
  std::vector<float> x(std::size_t{n} * cols, 0.5f);
  Activations rows(n, cols, Precision::kFast);
  for (auto _ : state) rows.prepare(pool, isa, x.data(), n, cols, cols);
  const double bytes = static_cast<double>(state.iterations()) * n * cols * sizeof(float);
  state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, benchmark::Counter::kIsRate);
}

void region(benchmark::State& state) {
  ThreadPool pool(static_cast<unsigned>(state.range(0)));
  for (auto _ : state) {
    pool.parallel_for(
        2, 1, [](std::size_t begin, std::size_t, unsigned) { benchmark::DoNotOptimize(begin); });
  }
}

void read_memory(benchmark::State& state) {
  std::vector<std::uint64_t> words(static_cast<std::size_t>(state.range(0)) / 8, 1);
  for (auto _ : state) {
    std::uint64_t sums[8] = {};
    for (std::size_t i = 0; i < words.size(); i += 8)
      for (std::size_t k = 0; k < 8; ++k) sums[k] += words[i + k];
    benchmark::DoNotOptimize(sums);
  }
  const double bytes =
      static_cast<double>(state.iterations()) * static_cast<double>(words.size()) * 8;
  state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, benchmark::Counter::kIsRate);
}

void register_all() {
  benchmark::RegisterBenchmark("region", region)->Arg(1)->Arg(2)->UseRealTime();
  benchmark::RegisterBenchmark("read", read_memory)->Arg(256 << 10)->Arg(8 << 20)->Arg(512 << 20);
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (!is_supported(isa)) continue;
    const std::string suffix = "/" + std::string(to_string(isa));
    benchmark::RegisterBenchmark(("prepare" + suffix).c_str(), prepare, isa);
    for (const TensorType type : kTypes) {
      const std::string name = std::string(traits_of(type)->name) + suffix;
      const auto add = [&](const char* label, Precision precision, Shape shape, std::uint32_t n,
                           unsigned threads, std::size_t matrices) {
        benchmark::RegisterBenchmark((label + ("/" + name) + "/" + shape.name + "/x" +
                                      std::to_string(n) + "/threads" + std::to_string(threads))
                                         .c_str(),
                                     run, type, isa, precision, shape, n, threads, matrices)
            ->UseRealTime();  // rates by the clock: CPU time counts the caller alone
      };
      add("fast", Precision::kFast, kSmall, 1, 1, 12);
      add("fast", Precision::kFast, kSmall, 1, 2, 12);
      for (const std::uint32_t few : {2u, 3u, 4u, 5u, 6u, 8u})
        add("fast", Precision::kFast, kSmall, few, 1, 12);
      add("fast", Precision::kFast, kSmall, 64, 1, 12);
      add("fast", Precision::kFast, kSmall, 64, 2, 12);
      add("fast", Precision::kFast, kLarge, 1, 1, 24);
      add("fast", Precision::kFast, kLarge, 1, 2, 24);
      add("fast", Precision::kFast, kLarge, 64, 1, 1);
      add("exact", Precision::kExact, kSmall, 1, 1, 12);
      add("exact", Precision::kExact, kSmall, 64, 1, 12);
    }
  }
}

}  // namespace
}  // namespace ds4::cpu

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  ds4::cpu::register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
