// How fast a slice on the GPU is at a model's full size, by parts if asked; with --compare, whether
// it computes what the CPU computes. Weights are random unless --file says that the file has them.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>
#include <vector>

#include "engine/cuda/slice.h"
#include "engine/model/cpu_slice.h"
#include "tests/engine/cuda/plain_source.h"

namespace {

using namespace ds4;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string model;
  std::string range = "0:output";
  bool file = false, compare = false, invariance = false, profile = false, no_graphs = false,
       no_overlap = false;
  std::uint32_t prompt = 2048, chunk = 2048, generate = 64;
  std::vector<std::uint32_t> contexts, sessions = {1};
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void print(const char* what, KernelTimes& times) {
  fmt::print("{}: {:.3f} ms\n{}", what, times.total_ms(), times.to_text());
  times.clear();
}

std::vector<std::int32_t> prompt_tokens(std::uint32_t count, std::uint32_t vocab,
                                        std::uint32_t seed) {
  std::vector<std::int32_t> tokens;
  std::uint64_t state = seed * 7919 + 1;
  for (std::uint32_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    tokens.push_back(static_cast<std::int32_t>((state >> 33) % vocab));
  }
  return tokens;
}

Result<void> prefill(Slice& slice, SessionId id, std::span<const std::int32_t> tokens,
                     std::uint32_t chunk, std::vector<float>& logits) {
  for (std::size_t at = 0; at < tokens.size(); at += chunk) {
    const auto part = tokens.subspan(at, std::min<std::size_t>(chunk, tokens.size() - at));
    const bool last = at + part.size() == tokens.size();
    const Segment segment{id, static_cast<std::uint32_t>(at), part,
                          last ? LogitsWanted::kLast : LogitsWanted::kNone};
    DS4_TRY(slice.forward({{&segment, 1}, {}},
                          {{}, last ? std::span<float>(logits) : std::span<float>{}}));
  }
  return {};
}

std::int32_t best_of(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// `sessions` conversations of `context` tokens each; then `generate` calls of one row of each.
Result<void> measure(Slice& slice, const Options& options, std::uint32_t sessions,
                     std::uint32_t context, KernelTimes* profile) {
  const std::uint32_t vocab = slice.params().n_vocab;
  std::vector<SampledToken> sampled(sessions);
  std::vector<float> one(vocab);
  double prefill_s = 0;
  for (SessionId id = 0; id < sessions; ++id) {
    DS4_TRY(slice.open_session(id, context + options.generate));
    const auto start = Clock::now();
    DS4_TRY(prefill(slice, id, prompt_tokens(context, vocab, static_cast<std::uint32_t>(id)),
                    options.chunk, one));
    prefill_s = seconds_since(start);
    if (profile != nullptr && id == 0) print("prefill", *profile);
  }
  if (profile != nullptr) profile->clear();
  std::vector<std::int32_t> next(sessions, best_of(one));
  std::vector<double> times;
  for (std::uint32_t i = 0; i < options.generate; ++i) {
    std::vector<Segment> segments;
    for (SessionId id = 0; id < sessions; ++id)
      segments.push_back({id, context + i, {&next[id], 1}, LogitsWanted::kLast});
    const auto start = Clock::now();
    DS4_TRY(slice.forward({segments, {}}, {{}, {}, sampled}));
    times.push_back(seconds_since(start));
    for (SessionId id = 0; id < sessions; ++id)
      next[id] = (sampled[id].token + static_cast<int>(id)) % static_cast<int>(vocab);
    if (profile == nullptr) continue;
    if (i + 1 == options.generate)
      print("one decode call", *profile);
    else
      profile->clear();
  }
  const bool finite = std::all_of(sampled.begin(), sampled.end(), [](const SampledToken& token) {
    return std::isfinite(token.logprob);
  });
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                   times.end());
  const double ms = 1000 * times[times.size() / 2];
  fmt::print(
      "{} sessions behind {} positions: prefill {:.0f} tokens/s, decode {:.3f} ms a call, "
      "{:.1f} tokens/s together{}\n",
      sessions, context, context / prefill_s, ms, sessions * 1000 / ms,
      finite ? "" : ", LOGITS NOT FINITE");
  std::fflush(stdout);
  for (SessionId id = 0; id < sessions; ++id) slice.close_session(id);
  return {};
}

double relative_l2(std::span<const float> a, std::span<const float> b) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    size += double{b[i]} * b[i];
  }
  return std::sqrt(difference / size);
}

/// The streams of all rows behind layer `last`, computed by `slice` of `0:last`.
Result<std::vector<float>> streams_of(Slice& slice, std::span<const std::int32_t> tokens) {
  const auto n = static_cast<std::uint32_t>(tokens.size());
  std::vector<float> streams(std::size_t{n} * 4 * slice.params().n_embd);
  DS4_TRY(slice.open_session(1, n));
  const Segment segment{1, 0, tokens, LogitsWanted::kNone};
  DS4_TRY(slice.forward({{&segment, 1}, {}}, {streams, {}}));
  return streams;
}

/// Layer by layer against the CPU's exact path. The median row, because here and there a row's last
/// expert is another one, and then it differs.
Result<void> compare(const std::shared_ptr<const ModelFile>& model, const HyperParams& params,
                     const Options& options) {
  const auto tokens = prompt_tokens(options.prompt, params.n_vocab, 1);
  const std::size_t width = 4 * std::size_t{params.n_embd};
  for (std::uint32_t last = 0; last + 1 < params.n_layer; ++last) {
    const LayerRange range{0, last, false};
    LoadOptions load;
    load.lock = false;
    DS4_ASSIGN(auto resident, ResidentSlice::load(model, range, load));
    DS4_ASSIGN(auto source, test::PlainSource::make(model, range, test::Contents::kOfFile));
    CpuSliceOptions cpu;
    cpu.graph = Graph::kPlain;
    cpu.precision = cpu::Precision::kExact;
    cpu.threads = std::max(1u, std::thread::hardware_concurrency());
    cpu.max_rows = options.prompt;
    CudaSliceOptions gpu;
    gpu.graph = Graph::kPlain;
    gpu.max_rows = options.prompt;
    DS4_ASSIGN(auto reference, make_cpu_slice(resident, cpu));
    DS4_ASSIGN(auto slice, cuda::make_slice(source, gpu, cuda::SliceTuning{}));
    DS4_ASSIGN(const std::vector<float> a, streams_of(*slice, tokens));
    DS4_ASSIGN(const std::vector<float> b, streams_of(*reference, tokens));
    std::vector<double> l2;
    for (std::size_t at = 0; at < a.size(); at += width)
      l2.push_back(relative_l2(std::span(a).subspan(at, width), std::span(b).subspan(at, width)));
    std::sort(l2.begin(), l2.end());
    fmt::print(
        "behind layer {} against the CPU's exact path, {} rows: relative L2 of the median "
        "row {:.2e}, of the worst {:.2e}\n",
        last, tokens.size(), l2[l2.size() / 2], l2.back());
    std::fflush(stdout);
    if (!(l2[l2.size() / 2] < 5e-3))
      return fail(ErrorCode::kMismatch, fmt::format("layer {} computes something else", last));
  }
  return {};
}

/// The same prompt as few large calls, and with its last 40 tokens one by one: the same bits?
Result<void> check_invariance(Slice& slice, const Options& options) {
  const std::uint32_t vocab = slice.params().n_vocab;
  const auto tokens = prompt_tokens(options.prompt, vocab, 1);
  std::vector<float> large(vocab), single(vocab);
  DS4_TRY(slice.open_session(1, options.prompt));
  DS4_TRY(prefill(slice, 1, tokens, options.chunk, large));
  slice.close_session(1);
  const std::uint32_t most = options.prompt - 40;
  DS4_TRY(slice.open_session(1, options.prompt));
  DS4_TRY(prefill(slice, 1, std::span(tokens).first(most), options.chunk / 2, single));
  for (std::uint32_t i = most; i < options.prompt; ++i) {
    const Segment segment{1, i, {&tokens[i], 1}, LogitsWanted::kLast};
    DS4_TRY(slice.forward({{&segment, 1}, {}}, {{}, single}));
  }
  slice.close_session(1);
  if (large != single)
    return fail(
        ErrorCode::kMismatch,
        fmt::format("logits depend on how {} tokens were cut into calls: relative L2 {:.2e}",
                    options.prompt, relative_l2(single, large)));
  fmt::print("{} tokens in large calls and one by one: the same logits, bit for bit\n",
             options.prompt);
  return {};
}

Result<void> run(const Options& options) {
  DS4_ASSIGN(std::shared_ptr<const ModelFile> model, ModelFile::open(options.model));
  DS4_ASSIGN(const HyperParams params, HyperParams::read(model->gguf()));
  DS4_ASSIGN(const LayerRange range, LayerRange::parse(options.range, params.n_layer));
  if (options.compare) return compare(model, params, options);
  const auto start = Clock::now();
  DS4_ASSIGN(auto source,
             test::PlainSource::make(
                 model, range, options.file ? test::Contents::kOfFile : test::Contents::kRandom));
  fmt::print("{:.2f} GB of {} weights in {:.1f} s\n", static_cast<double>(source->bytes()) / 1e9,
             options.file ? "the file's" : "RANDOM (synthetic)", seconds_since(start));
  KernelTimes profile;
  cuda::SliceTuning tuning;
  tuning.graphs = !options.no_graphs;
  tuning.overlap = !options.no_overlap;
  CudaSliceOptions slice_options;
  slice_options.max_rows = options.chunk;
  if (options.profile)
    slice_options.profile = [&](std::span<const KernelTime> times) { profile.add(times); };
  DS4_ASSIGN(auto slice, cuda::make_slice(source, slice_options, tuning));
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  fmt::print("device memory in use: {:.2f} GB\n", static_cast<double>(total - free) / 1e9);
  std::fflush(stdout);
  if (options.invariance) return check_invariance(*slice, options);
  for (const std::uint32_t sessions : options.sessions)
    DS4_TRY(
        measure(*slice, options, sessions, options.prompt, options.profile ? &profile : nullptr));
  for (const std::uint32_t context : options.contexts)
    DS4_TRY(measure(*slice, options, 1, context, options.profile ? &profile : nullptr));
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Speed of the CUDA slice");
  Options options;
  app.add_option("--model", options.model, "GGUF file; may be sparse without --file")->required();
  app.add_option("--range", options.range);
  app.add_flag("--file", options.file, "The file's weights instead of random ones");
  app.add_flag("--compare", options.compare);
  app.add_flag("--invariance", options.invariance);
  app.add_flag("--profile", options.profile);
  app.add_flag("--no-graphs", options.no_graphs);
  app.add_flag("--no-overlap", options.no_overlap);
  app.add_option("--prompt", options.prompt);
  app.add_option("--chunk", options.chunk);
  app.add_option("--generate", options.generate);
  app.add_option("--sessions", options.sessions)->delimiter(',');
  app.add_option("--context", options.contexts)->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  if (auto done = run(options); !done) {
    fmt::print(stderr, "cuda_slice_bench: {}\n", done.error().message);
    return 1;
  }
  return 0;
}
