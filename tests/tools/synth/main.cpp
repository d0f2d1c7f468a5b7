// ds4-synth: a model file with the sizes of DeepSeek V4 and random weights, as a sparse file in
// which only the layers asked for take space.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <list>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "tests/tools/synth/dims.h"
#include "tests/tools/synth/plan.h"
#include "tests/tools/synth/writer.h"

namespace {

using ds4::Result;
using ds4::synth::Dims;

struct Options {
  std::string out;
  std::string model = "flash";
  std::string recipe = "q4";
  std::string order = "layer";
  std::string populate = "none";
  std::uint64_t seed = 1;
  unsigned threads = std::max(1u, std::thread::hardware_concurrency());
};

/// One option for each size that tests want to change.
class DimsOptions {
 public:
  explicit DimsOptions(CLI::App& app) {
    add(app, "--layers", &Dims::n_layer);
    add(app, "--vocab", &Dims::n_vocab);
    add(app, "--embd", &Dims::n_embd);
    add(app, "--context", &Dims::context_length);
    add(app, "--heads", &Dims::n_head);
    add(app, "--head-dim", &Dims::head_dim);
    add(app, "--q-rank", &Dims::q_rank);
    add(app, "--groups", &Dims::n_group);
    add(app, "--o-rank", &Dims::o_rank);
    add(app, "--index-heads", &Dims::index_heads);
    add(app, "--top-k", &Dims::index_top_k);
    add(app, "--experts", &Dims::n_expert);
    add(app, "--experts-used", &Dims::n_expert_used);
    add(app, "--expert-ffn", &Dims::expert_ffn);
    add(app, "--hash-layers", &Dims::n_hash_layer);
  }
  void apply(Dims& dims) const {
    for (const auto& [field, value] : chosen_) {
      if (value != 0) dims.*field = value;
    }
  }

 private:
  void add(CLI::App& app, const std::string& name, std::uint32_t Dims::*field) {
    chosen_.emplace_back(field, 0);
    app.add_option(name, chosen_.back().second, "instead of the model's")
        ->check(CLI::PositiveNumber)
        ->group("Sizes");
  }
  std::list<std::pair<std::uint32_t Dims::*, std::uint32_t>> chosen_;  // addresses are kept
};

Result<std::string> run(const Options& options, const DimsOptions& sizes) {
  DS4_ASSIGN(Dims dims, ds4::synth::dims_of(options.model));
  sizes.apply(dims);
  DS4_ASSIGN(const auto recipe, ds4::synth::recipe_of(options.recipe));
  DS4_ASSIGN(const auto order, ds4::synth::order_of(options.order));
  std::optional<ds4::LayerRange> populate;
  if (options.populate != "none") {
    DS4_ASSIGN(populate, ds4::LayerRange::parse(options.populate, dims.n_layer));
  }
  DS4_ASSIGN(const auto plan, ds4::synth::make_plan(dims, recipe, order, options.seed));
  const auto start = std::chrono::steady_clock::now();
  DS4_ASSIGN(const auto written,
             ds4::synth::write_file(plan, options.out, populate, options.threads));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
  return fmt::format(
      "{}: {:.2f} GiB in {} tensors, {:.2f} GiB populated ({}) in {:.1f} s ({:.2f} GB/s)",
      options.out, static_cast<double>(plan.file_bytes) / kGiB, plan.tensors.size(),
      static_cast<double>(written) / kGiB, options.populate, took.count(),
      static_cast<double>(written) / 1e9 / took.count());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Writes a GGUF file of DeepSeek V4 dimensions with random weights.", "ds4-synth");
  app.add_option("--out", options.out, "the file to write; must not exist")->required();
  app.add_option("--model", options.model, "sizes: flash, pro or tiny")->capture_default_str();
  app.add_option("--recipe", options.recipe, "experts: q4, q2 or mxfp4")->capture_default_str();
  app.add_option("--order", options.order, "tensors in the file: layer, name or shuffled")
      ->capture_default_str();
  app.add_option("--populate", options.populate, "layers that hold data: A:B, A:output or none")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "of every random number")->capture_default_str();
  app.add_option("--threads", options.threads, "that fill it")->check(CLI::Range(1, 1024));
  const DimsOptions sizes(app);
  CLI11_PARSE(app, argc, argv);
  const auto told = run(options, sizes);
  if (!told) {
    std::fprintf(stderr, "ds4-synth: %s\n", told.error().message.c_str());
    return 1;
  }
  std::printf("%s\n", told->c_str());
  return 0;
}
