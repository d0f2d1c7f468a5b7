#pragma once
// --temp, --top-p, --top-k, --min-p, --seed: the same words and bounds in both programs.
#include "engine/text/sampler.h"

namespace CLI {
class App;
}

namespace ds4::ctl {

/// Adds the options; `params` receives their values and must outlive the parsing.
void add_sampling_options(CLI::App& command, SamplingParams& params);

}  // namespace ds4::ctl
