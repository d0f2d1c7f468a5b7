#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "ctl/common/exit_codes.h"
#include "ctl/common/terminal.h"
#include "ctl/ds4_eval/commands.h"
#include "ctl/ds4_eval/engine_options.h"
#include "engine/cpu/isa.h"
#include "engine/text/sampler.h"

namespace ds4::eval {
namespace {

struct BenchOptions {
  EngineOptions engine;
  std::uint32_t prompt = 512;
  std::uint32_t generate = 128;
  std::uint32_t repeat = 5;
  bool json = false;
};

struct Speeds {
  double prefill_tps = 0;
  double decode_tps = 0;
};

double per_second(std::uint32_t count, std::chrono::steady_clock::duration time) {
  return count / std::max(1e-9, std::chrono::duration<double>(time).count());
}

/// Arbitrary ids, the same in every run; what they say does not change how long they take.
std::vector<std::int32_t> prompt_tokens(std::uint32_t count, std::uint32_t vocabulary) {
  std::vector<std::int32_t> tokens;
  for (std::uint32_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<std::int32_t>((10 + std::uint64_t{i} * 37 % 4000) % vocabulary));
  }
  return tokens;
}

/// One conversation: the prompt, then greedy tokens one by one, sampling included.
Result<Speeds> measure(SliceChain& chain, const BenchOptions& options) {
  using Clock = std::chrono::steady_clock;
  constexpr SessionId kSession = 1;
  const std::vector<std::int32_t> prompt = prompt_tokens(options.prompt, chain.params().n_vocab);
  Sampler sampler(chain.params().n_vocab);
  std::uint32_t position = 0;
  std::int32_t token = 0;
  const auto sample = [&](std::uint32_t at, std::span<const float> logits) -> Result<void> {
    token = sampler.sample(logits, SamplingParams{}, at + 1).token;
    return {};
  };
  DS4_TRY(chain.open_session(kSession, options.prompt + options.generate));
  const auto start = Clock::now();
  Result<void> done = chain.append(kSession, 0, prompt, LogitsWanted::kLast, sample);
  const auto prefilled = Clock::now();
  position = options.prompt;
  for (std::uint32_t i = 0; i < options.generate && done; ++i, ++position) {
    const std::int32_t input = token;
    done = chain.append(kSession, position, std::span(&input, 1), LogitsWanted::kLast, sample);
  }
  const auto end = Clock::now();
  chain.close_session(kSession);
  DS4_TRY(done);
  return Speeds{per_second(options.prompt, prefilled - start),
                per_second(options.generate, end - prefilled)};
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Result<int> bench(const BenchOptions& options) {
  const ChainOptions chain_options = options.engine.chain();
  DS4_ASSIGN(SliceChain chain, SliceChain::open(chain_options));
  const std::uint64_t positions = std::uint64_t{options.prompt} + options.generate;
  if (positions > chain.params().context_length) {
    return fail(
        ErrorCode::kOutOfRange,
        fmt::format("prompt and answer of {} tokens are more than the model's context of {}",
                    positions, chain.params().context_length));
  }
  std::vector<double> prefill;
  std::vector<double> decode;
  for (std::uint32_t run = 0; run <= options.repeat; ++run) {
    DS4_ASSIGN(const Speeds speeds, measure(chain, options));
    if (run == 0) continue;  // the first run warms caches and clocks
    prefill.push_back(speeds.prefill_tps);
    decode.push_back(speeds.decode_tps);
  }
  const nlohmann::ordered_json json = {
      {"prefill_tps", median(prefill)}, {"decode_tps", median(decode)},
      {"prompt", options.prompt},       {"generate", options.generate},
      {"repeat", options.repeat},       {"threads", chain_options.threads},
      {"slices", chain.slices()},       {"isa", to_string(cpu::choose_isa())}};
  DS4_TRY(ctl::write_stdout(
      options.json
          ? json.dump() + "\n"
          : fmt::format("prefill {:.1f} tokens/s ({} tokens), decode {:.1f} tokens/s ({} "
                        "tokens), median of {} runs, {} threads, {}\n",
                        median(prefill), options.prompt, median(decode), options.generate,
                        options.repeat, chain_options.threads, to_string(cpu::choose_isa()))));
  return ctl::kExitOk;
}

}  // namespace

void add_bench_command(CLI::App& app, Action& action) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand("bench", "Tokens per second of prefill and decode");
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
  command->add_flag("--json", options->json, "prefill_tps, decode_tps and the settings");
  command->callback([options, &action] { action = [options] { return bench(*options); }; });
}

}  // namespace ds4::eval
