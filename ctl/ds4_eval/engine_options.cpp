#include "ctl/ds4_eval/engine_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <thread>

namespace ds4::eval {

ChainOptions EngineOptions::chain() const {
  ChainOptions chain;
  chain.model = model;
  chain.split = split;
  chain.graph = graph == "plain" ? Graph::kPlain : Graph::kOfficial;
  chain.backend = backend == "cuda"              ? Backend::kCuda
                  : backend == "cuda-registered" ? Backend::kCudaRegistered
                                                 : Backend::kCpu;
  chain.precision = exact ? cpu::Precision::kExact : cpu::Precision::kFast;
  chain.threads = threads != 0 ? threads : std::max(1u, std::thread::hardware_concurrency());
  chain.chunk = chunk;
  return chain;
}

void add_engine_options(CLI::App& command, EngineOptions& options) {
  command.add_option("--model", options.model, "GGUF file")->type_name("FILE")->required();
  command
      .add_option("--split", options.split,
                  "Compute in slices, such as 0:2,3:output; changes no bit of the result")
      ->type_name("RANGES");
  command
      .add_option(
          "--graph", options.graph,
          "official (default): caches rounded as DeepSeek's own inference does; plain: float")
      ->check(CLI::IsMember({"plain", "official"}));
  command
      .add_option("--backend", options.backend,
                  "cpu (default), cuda: weights in device memory, cuda-registered: in host memory "
                  "that the GPU reads")
      ->check(CLI::IsMember({"cpu", "cuda", "cuda-registered"}))
      ->type_name("WHERE");
  command.add_option("--chunk", options.chunk, "Most tokens of one pass; default 512")
      ->check(CLI::Range(1, 65536))
      ->type_name("N");
  command.add_flag("--exact", options.exact,
                   "Float arithmetic on decoded weights: slow, the oracle");
  command.add_option("--threads", options.threads, "0 (default): one for each core")
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
}

}  // namespace ds4::eval
