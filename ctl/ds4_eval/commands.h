#pragma once
// The subcommands of ds4-eval, one file each; the one that is called leaves its work in `action`.
#include <functional>

#include "engine/base/result.h"

namespace CLI {
class App;
}

namespace ds4::eval {

using Action = std::function<Result<int>()>;

void add_logits_command(CLI::App& app, Action& action);
void add_perplexity_command(CLI::App& app, Action& action);
void add_bench_command(CLI::App& app, Action& action);
void add_generate_command(CLI::App& app, Action& action);

}  // namespace ds4::eval
