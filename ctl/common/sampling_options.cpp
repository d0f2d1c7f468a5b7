#include "ctl/common/sampling_options.h"

#include <CLI/CLI.hpp>

namespace ds4::ctl {

void add_sampling_options(CLI::App& command, SamplingParams& params) {
  command.add_option("--temp", params.temperature, "0 (default): always the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->type_name("T");
  command.add_option("--top-p", params.top_p, "(0, 1]; 1 (default): off")
      ->check(CLI::Range(1e-6, 1.0))
      ->type_name("P");
  command.add_option("--top-k", params.top_k, "0 (default): off")->type_name("K");
  command
      .add_option("--min-p", params.min_p, "[0, 1), relative to the likeliest; 0 (default): off")
      ->check(CLI::Range(0.0, 0.999999))
      ->type_name("P");
  command.add_option("--seed", params.seed, "Of the random numbers; same seed, same answer")
      ->type_name("S");
}

}  // namespace ds4::ctl
