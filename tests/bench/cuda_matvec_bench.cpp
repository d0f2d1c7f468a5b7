// The time of single products of one row at DeepSeek V4 Flash's sizes, launch behind launch over
// weights that no cache has, beside that of a kernel that only reads them: by the engine's kernels
// (engine/cuda/kernels/one_row.h, few_rows.h), by those of products.cu, and in other shapes
// (cuda_matvec_variants.h), which all have to give the same bits.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "engine/quant/iq2_xxs.h"
#include "engine/quant/quant.h"
#include "tests/bench/cuda_matvec_variants.h"
#include "tests/engine/cuda/random_tensor.h"

namespace {

using namespace ds4;
using namespace ds4::bench;
using namespace ds4::cuda;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  fmt::print(stderr, "cuda_matvec_bench: {}: {}\n", what, cudaGetErrorString(error));
  std::exit(1);
}
/// Kept until the program ends.
template <typename T>
T* device(std::size_t count) {
  void* data = nullptr;
  check(cudaMalloc(&data, count * sizeof(T)), "cudaMalloc");
  return static_cast<T*>(data);
}
template <typename T>
T* on_device(const std::vector<T>& values) {
  T* to = device<T>(values.size());
  check(cudaMemcpy(to, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
  return to;
}
std::byte* random_blocks(TensorType type, std::uint32_t cols, std::uint64_t rows,
                         std::string_view name) {
  TensorInfo info{};
  info.name = name;
  info.type = type;
  info.dims = {cols, rows, 1, 1};
  std::byte* data = device<std::byte>(quant::row_bytes(type, cols) * rows + 16);
  check(test::fill_random(info, 1, data), "fill");
  return data;
}

// Measuring -----------------------------------------------------------------------------------

using Run = std::function<void(Launcher&, std::uint32_t turn)>;

/// Microseconds of one of `turns` launches that follow one another in a graph.
double microseconds(const Run& run, std::uint32_t turns) {
  Launcher launcher;
  check(cudaStreamCreate(&launcher.stream), "stream");
  run(launcher, 0);  // what is loaded with its first use is loaded now
  check(cudaStreamSynchronize(launcher.stream), "run");
  check(cudaStreamBeginCapture(launcher.stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (std::uint32_t turn = 0; turn < turns; ++turn) run(launcher, turn);
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  check(cudaStreamEndCapture(launcher.stream, &graph), "capture");
  check(launcher.error, "launch");
  check(cudaGraphInstantiate(&replay, graph, 0), "graph");
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start), "event"), check(cudaEventCreate(&stop), "event");
  std::vector<float> times;
  for (int i = 0; i < 9; ++i) {
    check(cudaEventRecord(start, launcher.stream), "event");
    check(cudaGraphLaunch(replay, launcher.stream), "replay");
    check(cudaEventRecord(stop, launcher.stream), "event");
    check(cudaEventSynchronize(stop), "run");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start, stop), "event");
    if (i > 1) times.push_back(ms);
  }
  cudaGraphExecDestroy(replay), cudaGraphDestroy(graph), cudaStreamDestroy(launcher.stream);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2] * 1e3 / turns;
}

double plain_rate = 1;  // bytes a microsecond

void report(const std::string& what, double us, double bytes, const std::string& more = {}) {
  fmt::print("{:44} {:8.2f} us {:6.2f} TB/s {:4.0f} %  {}\n", what, us, bytes / us * 1e-6,
             100 * bytes / us / plain_rate, more);
  std::fflush(stdout);
}

/// One product in several ways; all leave their result at the same place.
struct OneProduct {
  double bytes;
  std::uint32_t turns;
  void* result;
  std::size_t result_bytes;
  std::vector<std::byte> wanted = {};

  std::vector<std::byte> result_of(const Run& run, std::uint32_t turn) const {
    check(cudaMemset(result, 0xFF, result_bytes), "clear");
    Launcher launcher;
    run(launcher, turn);
    check(launcher.error, "launch");
    check(cudaDeviceSynchronize(), "run");
    std::vector<std::byte> bits(result_bytes);
    check(cudaMemcpy(bits.data(), result, result_bytes, cudaMemcpyDeviceToHost), "copy");
    return bits;
  }
  /// As the engine runs it, and as it does where one_row.h and few_rows.h support nothing.
  void present(const char* what, const Run& run) {
    wanted = result_of(run, turns - 1);
    measure(what, run, true);
    variant("the same, by the kernels of products.cu", [&](Launcher& launcher, std::uint32_t turn) {
      launcher.device_weights = false;
      run(launcher, turn);
    });
  }
  void variant(const char* what, const Run& run, bool multiplies = true) const {
    measure(what, run, !multiplies || result_of(run, turns - 1) == wanted);
  }

 private:
  void measure(const char* what, const Run& run, bool same) const {
    const double us = microseconds(run, turns);
    const Run again = [&](Launcher& launcher, std::uint32_t) { run(launcher, 0); };
    report(fmt::format("  {}", what), us, bytes,
           fmt::format("same weights again {:6.2f} us{}", microseconds(again, turns),
                       same ? "" : "  DIFFERS"));
  }
};

// The products --------------------------------------------------------------------------------

constexpr std::uint64_t kSlotBytes = std::uint64_t{32768} * 1024 / 32 * 34;  // 35.7 MB
constexpr std::uint32_t kSlots = 60;

struct Weights {
  std::byte* q8 = random_blocks(TensorType::kQ8_0, 1024, std::uint64_t{32768} * kSlots, "q8");
  const std::uint16_t* grid = on_device(
      std::vector<std::uint16_t>(std::begin(quant::kIq2XxsGrid), std::end(quant::kIq2XxsGrid)));

  DeviceMatrix q8_matrix(std::uint64_t offset, std::uint32_t rows, std::uint32_t cols) const {
    return {q8 + offset, quant::row_bytes(TensorType::kQ8_0, cols), rows, cols,
            static_cast<std::uint32_t>(TensorType::kQ8_0)};
  }
};

__half* random_halves(std::uint32_t count, std::string_view name) {
  return reinterpret_cast<__half*>(random_blocks(TensorType::kF16, count, 2, name));
}
QuantisedRows integers(std::uint32_t rows, std::uint32_t cols) {
  return QuantisedRows::place(device<std::byte>(QuantisedRows::bytes(rows, cols)), rows, cols);
}

/// `count` products of `rows` by `cols`, each with its own columns of the row.
void q8(const Weights& weights, const char* name, std::uint32_t count, std::uint32_t rows,
        std::uint32_t cols) {
  const QuantisedRows x = integers(1, cols * count);
  Launcher once;
  quantise_rows(once, random_halves(cols * count, name), cols * count, 1, cols * count, x);
  auto* y = device<float>(rows * count);
  const auto list = [=, &weights](std::uint32_t turn) {
    Q8Products all{};
    all.count = count, all.rows = rows, all.cols = cols;
    for (std::uint32_t i = 0; i < count; ++i) {
      const DeviceMatrix matrix =
          weights.q8_matrix(turn * kSlotBytes + i * (kSlotBytes / count), rows, cols);
      all.weights[i] = reinterpret_cast<const std::uint8_t*>(matrix.data);
      all.x[i] = x.from_column(i * cols), all.y[i] = y + i * rows;
    }
    return all;
  };
  fmt::print("{}: {} x ({} x {}), Q8_0\n", name, count, rows, cols);
  OneProduct product{static_cast<double>(kSlotBytes), kSlots, y, rows * count * sizeof(float)};
  product.present("run_products", [=, &weights](Launcher& launcher, std::uint32_t turn) {
    std::vector<Product> products;
    for (std::uint32_t i = 0; i < count; ++i) {
      Product one{weights.q8_matrix(turn * kSlotBytes + i * (kSlotBytes / count), rows, cols)};
      one.y = y + i * rows, one.y_stride = rows, one.integers = x.from_column(i * cols);
      products.push_back(one);
    }
    run_products(launcher, products, 1, weights.grid);
  });
  for (const Q8Way& way : q8_ways())
    product.variant(
        way.name, [&](Launcher& launcher, std::uint32_t turn) { way.run(launcher, list(turn)); },
        way.multiplies);
}

struct Experts {
  static constexpr std::uint32_t kE = 4096, kFfn = 2048, kExperts = 256, kUsed = 6;
  static constexpr std::uint32_t kTurns = kExperts / kUsed;

  std::vector<ExpertProducts> turn;  // with six other experts, and another shared one, each

  explicit Experts(const Weights& weights) {
    ExpertProducts e;
    const auto stack = [](TensorType type, std::uint32_t rows, std::uint32_t cols,
                          std::string_view name) {
      const std::uint64_t row_bytes = quant::row_bytes(type, cols);
      return ExpertStack{{random_blocks(type, cols, std::uint64_t{rows} * kExperts, name),
                          row_bytes, rows, cols, static_cast<std::uint32_t>(type)},
                         rows * row_bytes};
    };
    e.gate = stack(TensorType::kIQ2_XXS, kFfn, kE, "gate");
    e.up = stack(TensorType::kIQ2_XXS, kFfn, kE, "up");
    e.down = stack(TensorType::kQ2_K, kE, kFfn, "down");
    e.rows = 1, e.used = kUsed, e.n_expert = kExperts, e.limit = 10;
    e.x_integers = integers(1, kE);
    Launcher once;
    quantise_rows(once, random_halves(kE, "x"), kE, 1, kE, e.x_integers);
    e.hidden = random_halves((kUsed + 1) * kFfn, "hidden");
    e.down_out = device<float>((kUsed + 1) * kE);
    e.groups.count = on_device(std::vector<std::uint32_t>{kUsed});
    e.groups.begin = on_device(std::vector<std::uint32_t>{0, 1, 2, 3, 4, 5, 6});
    e.groups.entry_row = on_device(std::vector<std::uint32_t>(kUsed));
    std::vector<std::uint32_t> order(kExperts);
    for (std::uint32_t i = 0; i < kExperts; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), std::mt19937(1));
    std::uint32_t* experts = on_device(order);
    const std::uint64_t shared = std::uint64_t{kFfn} * quant::row_bytes(TensorType::kQ8_0, kE);
    for (std::uint32_t i = 0; i < kTurns; ++i) {
      e.groups.expert = experts + i * kUsed;
      e.shared_gate = weights.q8_matrix((3 * i + 0) * shared, kFfn, kE);
      e.shared_up = weights.q8_matrix((3 * i + 1) * shared, kFfn, kE);
      e.shared_down = weights.q8_matrix((3 * i + 2) * shared, kE, kFfn);
      turn.push_back(e);
    }
  }
};
static_assert(Experts::kTurns * 3 * (kSlotBytes / 4) <= kSlots * kSlotBytes);

void experts(const Weights& weights) {
  const Experts all(weights);
  const ExpertProducts& e = all.turn[0];
  const auto bytes = [&](const ExpertStack& stack, const DeviceMatrix& shared) {
    return static_cast<double>(stack.stride * Experts::kUsed + shared.rows * shared.row_bytes);
  };
  fmt::print("gate and up: 6 x 2 x (2048 x 4096), IQ2_XXS; shared 2 x (2048 x 4096), Q8_0\n");
  OneProduct gate_up{2 * bytes(e.gate, e.shared_gate), Experts::kTurns, e.hidden,
                     (Experts::kUsed + 1) * Experts::kFfn * sizeof(__half)};
  gate_up.present("run_gate_up", [&](Launcher& launcher, std::uint32_t turn) {
    cuda::run_gate_up(launcher, all.turn[turn], weights.grid);
  });
  // Behind gate and up, whose results are still there.
  fmt::print("down: 6 x (4096 x 2048), Q2_K; shared 4096 x 2048, Q8_0\n");
  OneProduct down{bytes(e.down, e.shared_down), Experts::kTurns, e.down_out,
                  (Experts::kUsed + 1) * Experts::kE * sizeof(float)};
  down.present("run_down", [&](Launcher& launcher, std::uint32_t turn) {
    cuda::run_down(launcher, all.turn[turn], weights.grid);
  });
}

void reads(const Weights& weights) {
  auto* never = device<std::uint32_t>(1);
  const auto read = [&](std::uint64_t bytes) {
    return [=, &weights](Launcher& launcher, std::uint32_t turn) {
      only_read(launcher, weights.q8 + turn * bytes, bytes, never);
    };
  };
  const double whole = microseconds(read(kSlots * kSlotBytes), 1);
  plain_rate = static_cast<double>(kSlots * kSlotBytes) / whole;
  report("plain read, 2.1 GB in one launch", whole, static_cast<double>(kSlots * kSlotBytes));
  report("plain read, 35.7 MB a launch", microseconds(read(kSlotBytes), kSlots),
         static_cast<double>(kSlotBytes));
  const auto none = [](Launcher& launcher, std::uint32_t) { nothing(launcher, 264); };
  report("nothing, 264 blocks a launch", microseconds(none, kSlots), 0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) {
    const bool help = std::string_view(argv[1]) == "--help";
    fmt::print(
        help ? stdout : stderr,
        "usage: cuda_matvec_bench [--help]\n\n"
        "Times the products of one row at DeepSeek V4 Flash's sizes: by the engine's kernels for\n"
        "one row, by those of products.cu, and in other shapes.\n"
        "Needs 5 GB of device memory and some seconds. Launches follow one another as in a step;\n"
        "shares are of the plain read's rate. The same weights again may lie in the GPU's cache.\n"
        "DIFFERS marks a result that has other bits than the first one's.\n");
    return help ? 0 : 2;
  }
  cudaDeviceProp device{};
  check(cudaGetDeviceProperties(&device, 0), "device");
  fmt::print("{}, {} multiprocessors\n", device.name, device.multiProcessorCount);
  const Weights weights;
  reads(weights);
  q8(weights, "q_b", 1, 32768, 1024);
  q8(weights, "o_a", 8, 1024, 4096);
  q8(weights, "o_b", 1, 4096, 8192);
  experts(weights);
  return 0;
}
