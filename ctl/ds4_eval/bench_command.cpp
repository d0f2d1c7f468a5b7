#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "ctl/common/exit_codes.h"
#include "ctl/common/terminal.h"
#include "ctl/ds4_eval/bench_run.h"
#include "ctl/ds4_eval/commands.h"
#include "ctl/ds4_eval/decode_traffic.h"
#include "ctl/ds4_eval/engine_options.h"
#include "ctl/ds4_eval/read_bandwidth.h"
#include "engine/cpu/isa.h"
#include "engine/model/kv_cache.h"

namespace ds4::eval {
namespace {

struct BenchOptions {
  EngineOptions engine;
  std::uint32_t prompt = 512;
  std::uint32_t generate = 128;
  std::uint32_t repeat = 5;
  std::vector<std::uint32_t> contexts;
  bool json = false;
};

/// What is measured once the model is open.
struct Measured {
  std::string device;
  double prefill_tps = 0;
  double decode_tps = 0;
  DecodeTraffic traffic;  // of a token in the middle of the answer
  double read_bandwidth = 0;
  std::vector<ContextSpeed> contexts;
  std::string kv;  // what a session's cache consists of

  double bandwidth_share() const {
    return static_cast<double>(traffic.weight_bytes) * decode_tps / read_bandwidth;
  }
};

/// Before anything takes time: each conversation must fit the model.
Result<void> check_context(const BenchOptions& options, const SliceChain& chain) {
  const std::uint64_t most = chain.params().context_length;
  const auto check = [&](std::string_view what, std::uint64_t before) -> Result<void> {
    const std::uint64_t positions = before + options.generate;
    if (positions <= most) return {};
    return fail(ErrorCode::kOutOfRange,
                fmt::format("{} and answer of {} tokens are more than the model's context of {}",
                            what, positions, most));
  };
  DS4_TRY(check("prompt", options.prompt));
  for (const std::uint32_t context : options.contexts) DS4_TRY(check("--context", context));
  return {};
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

DecodeTraffic traffic_at(const SliceChain& chain, Graph graph, std::uint32_t position) {
  const HyperParams& params = chain.params();
  return decode_traffic(chain.model().gguf(), params, {0, params.n_layer - 1, true}, graph,
                        position);
}

/// Of the memory that the weights are in.
Result<double> memory_bandwidth(const SliceChain& chain, unsigned threads) {
  constexpr unsigned kRounds = 4;
  if (chain.cuda() != nullptr) return chain.cuda()->memory_bytes_per_second();
  return read_bandwidth(threads, bandwidth_buffer_bytes(), kRounds);
}

/// What computes: an instruction set or a GPU.
Result<std::string> device_name(const SliceChain& chain) {
  if (chain.cuda() == nullptr) return std::string(to_string(cpu::choose_isa()));
  DS4_ASSIGN(const DeviceFacts facts, chain.cuda()->facts());
  return facts.name;
}

Result<Measured> measure(SliceChain& chain, const BenchOptions& options, unsigned threads) {
  // Around the runs, not among them: it empties the caches, and what else the machine does changes.
  Measured measured;
  DS4_ASSIGN(measured.device, device_name(chain));
  DS4_ASSIGN(const double before, memory_bandwidth(chain, threads));
  std::vector<double> prefill;
  std::vector<double> decode;
  for (std::uint32_t run = 0; run <= options.repeat; ++run) {
    DS4_ASSIGN(const Speeds speeds, measure_speeds(chain, options.prompt, options.generate));
    if (run == 0) continue;  // the first run warms caches and clocks
    prefill.push_back(speeds.prefill_tps);
    decode.push_back(speeds.decode_tps);
  }
  DS4_ASSIGN(const double after, memory_bandwidth(chain, threads));
  measured.prefill_tps = median(prefill);
  measured.decode_tps = median(decode);
  measured.read_bandwidth = std::max(before, after);
  for (const std::uint32_t context : options.contexts) {
    DS4_ASSIGN(const ContextSpeed speed, measure_context(chain, context, options.generate));
    measured.contexts.push_back(speed);
  }
  return measured;
}

nlohmann::ordered_json to_json(const Measured& measured, const BenchOptions& options,
                               const SliceChain& chain, const ChainOptions& chain_options) {
  nlohmann::ordered_json json = {{"prefill_tps", measured.prefill_tps},
                                 {"decode_tps", measured.decode_tps},
                                 {"decode_bytes_per_token", measured.traffic.weight_bytes},
                                 {"decode_kv_bytes_per_token", measured.traffic.kv_bytes},
                                 {"read_bandwidth_bytes_per_s", measured.read_bandwidth},
                                 {"decode_bandwidth_share", measured.bandwidth_share()},
                                 {"kv_cache", measured.kv},
                                 {"prompt", options.prompt},
                                 {"generate", options.generate},
                                 {"repeat", options.repeat},
                                 {"threads", chain_options.threads},
                                 {"slices", chain.slices()},
                                 {"isa", measured.device}};
  for (const ContextSpeed& speed : measured.contexts) {
    const DecodeTraffic traffic =
        traffic_at(chain, chain_options.graph, speed.context + options.generate / 2);
    json["contexts"].push_back({{"context", speed.context},
                                {"fill_tps", speed.fill_tps},
                                {"decode_ms_per_token", speed.ms_per_token},
                                {"decode_bytes_per_token", traffic.weight_bytes},
                                {"decode_kv_bytes_per_token", traffic.kv_bytes}});
  }
  return json;
}

std::string to_text(const Measured& measured, const BenchOptions& options,
                    const ChainOptions& chain_options) {
  constexpr double kMb = 1e6;
  std::string text = fmt::format(
      "prefill {:.1f} tokens/s ({} tokens), decode {:.1f} tokens/s ({} tokens), median of {} runs, "
      "{} threads, {}\n"
      "decode reads {:.1f} MB of weights and {:.2f} MB of cache per token: {:.0f} % of the {:.1f} "
      "GB/s that memory gives\n"
      "a session's cache: {}\n",
      measured.prefill_tps, options.prompt, measured.decode_tps, options.generate, options.repeat,
      chain_options.threads, measured.device,
      static_cast<double>(measured.traffic.weight_bytes) / kMb,
      static_cast<double>(measured.traffic.kv_bytes) / kMb, 100 * measured.bandwidth_share(),
      measured.read_bandwidth / 1e9, measured.kv);
  for (const ContextSpeed& speed : measured.contexts) {
    text += fmt::format("behind {} positions: {:.3f} ms per token (filled at {:.1f} tokens/s)\n",
                        speed.context, speed.ms_per_token, speed.fill_tps);
  }
  return text;
}

Result<int> bench(const BenchOptions& options) {
  const ChainOptions chain_options = options.engine.chain();
  DS4_ASSIGN(SliceChain chain, SliceChain::open(chain_options));
  DS4_TRY(check_context(options, chain));
  DS4_ASSIGN(Measured measured, measure(chain, options, chain_options.threads));
  measured.traffic = traffic_at(chain, chain_options.graph, options.prompt + options.generate / 2);
  measured.kv = KvPlan::make(chain.params(), {0, chain.params().n_layer - 1, true},
                             chain_options.graph, options.prompt + options.generate)
                    .describe();
  DS4_TRY(ctl::write_stdout(options.json
                                ? to_json(measured, options, chain, chain_options).dump() + "\n"
                                : to_text(measured, options, chain_options)));
  return ctl::kExitOk;
}

}  // namespace

void add_bench_command(CLI::App& app, Action& action) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand(
      "bench",
      "Tokens per second of prefill and decode, and how near decode comes to the memory's speed");
  add_engine_options(*command, options->engine);
  command->add_option("--prompt", options->prompt, "Tokens to read; default 512")
      ->check(CLI::Range(1, 1 << 24))
      ->type_name("N");
  command->add_option("--generate", options->generate, "Tokens to make; default 128")
      ->check(CLI::Range(1, 1 << 24))
      ->type_name("N");
  command->add_option("--repeat", options->repeat, "Runs after one that warms up; default 5")
      ->check(CLI::Range(1, 1000))
      ->type_name("R");
  command
      ->add_option("--context", options->contexts,
                   "Also the time of a token behind N positions, such as 1024,16384,65536")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 24))
      ->type_name("N,...");
  command->add_flag("--json", options->json,
                    "prefill_tps, decode_tps, decode_bandwidth_share and what they stand on");
  command->callback([options, &action] { action = [options] { return bench(*options); }; });
}

}  // namespace ds4::eval
