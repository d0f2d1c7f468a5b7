#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "ctl/common/exit_codes.h"
#include "ctl/common/terminal.h"
#include "ctl/ds4_eval/bench_report.h"
#include "ctl/ds4_eval/commands.h"
#include "ctl/ds4_eval/engine_options.h"
#include "engine/cpu/isa.h"
#include "engine/cpu/read_bandwidth.h"
#include "engine/model/kv_cache.h"

namespace ds4::eval {
namespace {

struct BenchOptions {
  EngineOptions engine;
  std::uint32_t prompt = 512;
  std::uint32_t generate = 128;
  std::uint32_t repeat = 5;
  std::vector<std::uint32_t> contexts, sessions, prefills;
  bool profile = false;
  bool json = false;

  Conversations main() const { return {prompt, generate, 1}; }
};

/// Before anything takes time: each conversation must fit the model, and each pass the chain.
Result<void> check_sizes(const BenchOptions& options, const SliceChain& chain) {
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
  for (const std::uint32_t prefill : options.prefills) DS4_TRY(check("--prefill", prefill));
  for (const std::uint32_t sessions : options.sessions) {
    if (sessions > chain.chunk())
      return fail(ErrorCode::kOutOfRange,
                  fmt::format("--sessions {} are more than the {} rows of a pass; raise --chunk",
                              sessions, chain.chunk()));
  }
  return {};
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

LayerRange whole(const SliceChain& chain) {
  return {0, chain.params().n_layer - 1, true};
}

/// Of the token in the middle of each answer.
DecodeTraffic traffic_of(const SliceChain& chain, Graph graph, const Conversations& what) {
  return decode_traffic(chain.model().gguf(), chain.params(), whole(chain), graph,
                        what.prompt + what.generate / 2);
}

/// Of the memory that the weights are in.
Result<double> memory_bandwidth(const SliceChain& chain, unsigned threads) {
  constexpr unsigned kRounds = 4;
  if (chain.cuda() != nullptr) return chain.cuda()->memory_bytes_per_second();
  return read_bandwidth(threads, bandwidth_buffer_bytes(), kRounds);
}

Result<std::string> device_name(const SliceChain& chain) {
  if (chain.cuda() == nullptr) return std::string(to_string(cpu::choose_isa()));
  DS4_ASSIGN(const DeviceFacts facts, chain.cuda()->facts());
  return facts.name;
}

std::string cache_of(const SliceChain& chain, Graph graph, std::uint32_t context) {
  if (chain.cuda() != nullptr)
    return fmt::format("{} bytes of device memory for {} positions", chain.kv_bytes_for(context),
                       context);
  return KvPlan::make(chain.params(), whole(chain), graph, context).describe();
}

Result<Measured> measure_all(SliceChain& chain, const BenchOptions& options,
                             const ChainOptions& chain_options) {
  Measured measured;
  const Conversations what = measured.what = options.main();
  measured.repeat = options.repeat;
  measured.slices = chain.slices();
  if (chain.cuda() == nullptr) measured.threads = chain_options.threads;
  DS4_ASSIGN(measured.device, device_name(chain));
  measured.traffic = traffic_of(chain, chain_options.graph, what);
  measured.kv = cache_of(chain, chain_options.graph, what.prompt + what.generate);
  // Around the runs, not among them: it empties the caches, and what else the machine does changes.
  DS4_ASSIGN(const double before, memory_bandwidth(chain, chain_options.threads));
  std::vector<double> prefill;
  std::vector<double> decode;
  for (std::uint32_t run = 0; run <= options.repeat; ++run) {
    DS4_ASSIGN(const Times times, measure(chain, what));
    if (run == 0) continue;  // the first run warms caches and clocks
    prefill.push_back(times.prefill_tps(what));
    decode.push_back(times.decode_tps(what));
  }
  DS4_ASSIGN(const double after, memory_bandwidth(chain, chain_options.threads));
  measured.prefill_tps = median(prefill);
  measured.decode_tps = median(decode);
  measured.read_bandwidth = std::max(before, after);
  // The further ones once only: they take long, and a median over tokens is steady enough.
  const auto add = [&](const Conversations& one,
                       std::vector<Measured::Further>& to) -> Result<void> {
    DS4_ASSIGN(Times times, measure(chain, one));
    to.push_back({one, std::move(times), traffic_of(chain, chain_options.graph, one)});
    return {};
  };
  for (const std::uint32_t n : options.prefills) DS4_TRY(add({n, 0, 1}, measured.prefills));
  for (const std::uint32_t n : options.contexts)
    DS4_TRY(add({n, options.generate, 1}, measured.contexts));
  for (const std::uint32_t n : options.sessions)
    DS4_TRY(add({options.prompt, options.generate, n}, measured.sessions));
  return measured;
}

Result<int> profile(const BenchOptions& options) {
  if (options.engine.chain().backend == Backend::kCpu)
    return fail(ErrorCode::kInvalidArgument, "--profile is for --backend cuda: it times kernels");
  Profiled profiled;
  profiled.what = options.main();
  if (!options.sessions.empty()) profiled.what.sessions = options.sessions.front();
  KernelTimes warm_up;
  KernelTimes* to = &warm_up;
  ChainOptions chain_options = options.engine.chain();
  chain_options.profile = [&](std::span<const KernelTime> times) { to->add(times); };
  DS4_ASSIGN(SliceChain chain, SliceChain::open(chain_options));
  DS4_TRY(check_sizes(options, chain));
  DS4_TRY(measure(chain, {profiled.what.prompt, 1, profiled.what.sessions}));
  to = &profiled.prefill;
  DS4_TRY(measure(chain, profiled.what, [&] { to = &profiled.decode; }));
  DS4_TRY(ctl::write_stdout(options.json ? to_json(profiled) : to_text(profiled)));
  return ctl::kExitOk;
}

Result<int> bench(const BenchOptions& options) {
  if (options.profile) return profile(options);
  const ChainOptions chain_options = options.engine.chain();
  DS4_ASSIGN(SliceChain chain, SliceChain::open(chain_options));
  DS4_TRY(check_sizes(options, chain));
  DS4_ASSIGN(const Measured measured, measure_all(chain, options, chain_options));
  DS4_TRY(ctl::write_stdout(options.json ? to_json(measured) : to_text(measured)));
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
  const auto add_list = [&](const char* name, std::vector<std::uint32_t>& list, const char* help) {
    command->add_option(name, list, help)
        ->delimiter(',')
        ->check(CLI::Range(1, 1 << 24))
        ->type_name("N,...");
  };
  add_list("--context", options->contexts,
           "Also the time of a token behind N positions, such as 1024,16384,65536");
  add_list("--sessions", options->sessions,
           "Also N conversations side by side, such as 1,4,16, which share each pass");
  add_list("--prefill", options->prefills, "Also the speed of reading N tokens, such as 2048,8192");
  command->add_flag("--profile", options->profile,
                    "In place of speeds the time of every kind of kernel; with --backend cuda");
  command->add_flag("--json", options->json,
                    "prefill_tps, decode_tps, decode_bandwidth_share and what they stand on");
  command->callback([options, &action] { action = [options] { return bench(*options); }; });
}

}  // namespace ds4::eval
