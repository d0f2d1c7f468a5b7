// ds4-cuda-residency: makes layers of a model resident for a GPU as the agent does, through the
// same plugin and the same descriptor store, and says what it came to. For demonstrations and
// measurements (tests/gpu/residency.sh).
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "agent/loader/fd_store.h"
#include "engine/cuda/plugin.h"
#include "engine/residency/residency_audit.h"

namespace {

using ds4::Result;
constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

struct Options {
  std::string model;
  std::string layers;
  std::string plugin_path;
  bool registered = false;
  bool whole_file = false;
  bool rate = false;
  bool decode = false;
  bool hold = false;
  unsigned readers = 0;
};

double gib(std::uint64_t bytes) {
  return static_cast<double>(bytes) / kGiB;
}

template <typename... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {
  fmt::print(format, std::forward<Args>(args)...);
  std::fputc('\n', stdout);
  std::fflush(stdout);
}

/// Some of every tensor of the range, on the device as in the file. Returns the bytes compared.
Result<std::uint64_t> compare_with_file(const ds4::CudaWeights& weights) {
  constexpr std::uint64_t kSample = 64u << 10;
  std::uint64_t compared = 0;
  for (const ds4::TensorInfo& tensor : weights.model().gguf().tensors()) {
    if (!weights.range().owns(tensor.name)) continue;
    const std::uint64_t bytes = std::min(kSample, tensor.bytes);
    for (const std::uint64_t at :
         {std::uint64_t{0}, (tensor.bytes - bytes) / 2, tensor.bytes - bytes}) {
      std::vector<std::byte> there(bytes);
      std::vector<std::byte> here(bytes);
      DS4_TRY(weights.read_back(tensor.name, at, there));
      if (::pread(weights.model().fd(), here.data(), bytes,
                  static_cast<off_t>(tensor.offset + at)) != static_cast<ssize_t>(bytes)) {
        return ds4::fail_errno("read the file");
      }
      if (std::memcmp(here.data(), there.data(), bytes) != 0) {
        return ds4::fail(ds4::ErrorCode::kCorrupt,
                         fmt::format("{} differs from the file at {}", tensor.name, at));
      }
      compared += bytes;
    }
  }
  return compared;
}

/// Some steps of a session over these weights, from random streams where the layers before are
/// elsewhere: whatever comes out must be numbers.
Result<void> decode(ds4::CudaEngine& engine, std::shared_ptr<const ds4::CudaWeights> weights) {
  constexpr std::uint32_t kSteps = 16;
  DS4_ASSIGN(const auto slice, engine.make_slice(std::move(weights), {.max_rows = 64}));
  const ds4::HyperParams& hp = slice->params();
  const bool output = slice->range().output;
  DS4_TRY(slice->open_session(1, kSteps));
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> in(slice->range().has_embedding() ? 0 : std::size_t{hp.n_streams} * hp.n_embd);
  std::vector<float> out(output ? hp.n_vocab : std::size_t{hp.n_streams} * hp.n_embd);
  std::chrono::duration<double> last_steps{};
  for (std::uint32_t position = 0; position < kSteps; ++position) {
    std::ranges::generate(in, [&] { return normal(random); });
    std::ranges::fill(out, std::nanf(""));
    const auto token = static_cast<std::int32_t>(random() % hp.n_vocab);
    const ds4::Segment segment{1, position, {&token, 1}, ds4::LogitsWanted::kLast};
    const auto start = std::chrono::steady_clock::now();
    DS4_TRY(slice->forward({{&segment, 1}, in},
                           {output ? std::span<float>{} : out, output ? out : std::span<float>{}}));
    if (position >= kSteps / 2) last_steps += std::chrono::steady_clock::now() - start;
    const auto finite =
        std::ranges::count_if(out, [](float value) { return std::isfinite(value); });
    if (finite != std::ssize(out)) {
      return ds4::fail(ds4::ErrorCode::kCorrupt, fmt::format("step {}: {} of {} values are finite",
                                                             position, finite, out.size()));
    }
  }
  const auto [least, most] = std::ranges::minmax(out);
  say("{} decode steps, every one of {} {} finite; the last from {:.3f} to {:.3f}; {:.2f} ms a "
      "step",
      kSteps, out.size(), output ? "logits" : "stream values", least, most,
      1e3 * last_steps.count() / (kSteps / 2));
  return {};
}

/// What tools did that knew no cover: the whole file, mapped and registered at once.
Result<void> register_whole_file(const ds4::ModelFile& model) {
  void* const at = ::mmap(nullptr, model.file_bytes(), PROT_READ, MAP_SHARED, model.fd(), 0);
  if (at == MAP_FAILED) return ds4::fail_errno("map the whole file");
  say("registering the whole file, {:.2f} GiB", gib(model.file_bytes()));
  const cudaError_t error =
      cudaHostRegister(at, model.file_bytes(), cudaHostRegisterMapped | cudaHostRegisterReadOnly);
  if (error == cudaSuccess) return {};
  return ds4::fail(ds4::ErrorCode::kResourceExhausted,
                   fmt::format("cudaHostRegister: {}", cudaGetErrorString(error)));
}

Result<std::shared_ptr<const ds4::CudaWeights>> make_resident(
    ds4::CudaEngine& engine, const std::shared_ptr<const ds4::ModelFile>& model,
    const Options& options) {
  DS4_ASSIGN(const std::uint32_t block_count, model->gguf().u32("deepseek4.block_count"));
  DS4_ASSIGN(const auto range, ds4::LayerRange::parse(options.layers, block_count));
  if (!options.registered) return engine.load(model, range);
  DS4_ASSIGN(std::shared_ptr<const ds4::ResidentSlice> pages,
             ds4::ResidentSlice::load(model, range));
  say("pages in memory after {:.3f} s",
      std::chrono::duration<double>(pages->figures().took).count());
  return engine.register_host(std::move(pages));
}

void describe(const ds4::CudaWeights& weights, std::uint64_t free_before, std::uint64_t free_now,
              double pinned_rate) {
  const ds4::LoadFigures& figures = weights.figures();
  const double seconds = std::chrono::duration<double>(figures.took).count();
  say("{}", weights.cover().describe());
  say("{:.2f} GiB copied, {:.2f} GiB taken over, in {:.3f} s", gib(figures.read_bytes),
      gib(figures.adopted_bytes), seconds);
  if (figures.read_bytes > 0) {
    const double rate = static_cast<double>(figures.read_bytes) / seconds;
    say("{:.1f} GB/s from file to device{}", rate / 1e9,
        pinned_rate > 0 ? fmt::format(", {:.0f} % of the pinned copy", 100 * rate / pinned_rate)
                        : "");
  }
  say("cover {:.4f} GiB, device memory {:.4f} GiB, registered {:.4f} GiB; the device's free memory "
      "fell by {:.4f} GiB",
      gib(weights.cover().cover_bytes()), gib(weights.device_bytes()),
      gib(weights.registered_bytes()), free_before > free_now ? gib(free_before - free_now) : 0.0);
  say("host peak (VmHWM) while loading {:.1f} MiB",
      static_cast<double>(figures.peak_rss_bytes) / (1024.0 * 1024.0));
  if (!weights.note().empty()) say("note: {}", weights.note());
}

/// Registered pages are the file's own: shared, and not once more as anonymous memory.
void describe_host() {
  std::ifstream file("/proc/self/status");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto mib = [&](std::string_view field) {
    return static_cast<double>(ds4::parse_status_bytes(text, field).value_or(0)) / (1 << 20);
  };
  say("host memory now: {:.1f} MiB anonymous, {:.1f} MiB of files, {:.1f} MiB shared",
      mib("RssAnon"), mib("RssFile"), mib("RssShmem"));
}

Result<void> run(const Options& options) {
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  DS4_ASSIGN(const auto model, ds4::ModelFile::open(options.model));
  if (options.whole_file) return register_whole_file(*model);
  ds4::agent::FdStore store;
  DS4_ASSIGN(const auto engine, ds4::CudaEngine::open({.plugin_path = options.plugin_path,
                                                       .keeper = &store,
                                                       .readers = options.readers}));
  DS4_ASSIGN(const ds4::DeviceFacts facts, engine->facts());
  say("{}: {:.2f} GiB, {:.2f} GiB free; context after {:.3f} s", facts.name, gib(facts.total_bytes),
      gib(facts.free_bytes), seconds());
  double pinned_rate = 0;
  if (options.rate) {
    DS4_ASSIGN(pinned_rate, engine->pinned_copy_bytes_per_second());
    say("pinned copy {:.1f} GB/s", pinned_rate / 1e9);
  }
  DS4_ASSIGN(const auto weights, make_resident(*engine, model, options));
  say("pid {} resident after {:.3f} s", ::getpid(), seconds());
  DS4_ASSIGN(const ds4::DeviceFacts now, engine->facts());
  describe(*weights, facts.free_bytes, now.free_bytes, pinned_rate);
  describe_host();
  DS4_ASSIGN(const std::uint64_t compared, compare_with_file(*weights));
  say("{:.1f} MiB of all tensors compared with the file: equal",
      static_cast<double>(compared) / (1024.0 * 1024.0));
  if (options.decode) DS4_TRY(decode(*engine, weights));
  if (options.hold) {
    say("holding");
    ::pause();
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Makes layers of a model resident for a GPU.", "ds4-cuda-residency");
  app.add_option("--model", options.model, "a GGUF file")->required();
  app.add_option("--layers", options.layers, "A:B or A:output");
  app.add_option("--library", options.plugin_path, "libds4engine-cuda.so");
  app.add_option("--readers", options.readers, "threads that read the file");
  app.add_flag("--registered", options.registered, "register the host's pages, copy nothing");
  app.add_flag("--whole-file", options.whole_file, "register the whole file, as others did");
  app.add_flag("--rate", options.rate, "measure the pinned copy first");
  app.add_flag("--decode", options.decode, "then compute some steps with them");
  app.add_flag("--hold", options.hold, "stay until killed");
  CLI11_PARSE(app, argc, argv);
  const auto done = run(options);
  if (done) return 0;
  std::fprintf(stderr, "ds4-cuda-residency: %s\n", done.error().message.c_str());
  return 1;
}
