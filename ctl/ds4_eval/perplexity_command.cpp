#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "ctl/common/exit_codes.h"
#include "ctl/common/read_file.h"
#include "ctl/common/terminal.h"
#include "ctl/ds4_eval/commands.h"
#include "ctl/ds4_eval/engine_options.h"
#include "ctl/ds4_eval/perplexity.h"
#include "ctl/ds4_eval/tokens_file.h"
#include "engine/text/tokenizer.h"

namespace ds4::eval {
namespace {

struct PerplexityOptions {
  EngineOptions engine;
  std::string text;
  std::string tokens;
  std::uint32_t window = 2048;
  bool json = false;
};

using Windows = std::vector<std::vector<std::int32_t>>;

/// Pieces of the text that each begin anew with the begin of sentence, so that memory stays bounded
/// and every piece is a text of its own.
Result<Windows> text_windows(const SliceChain& chain, const std::string& path,
                             std::uint32_t window) {
  DS4_ASSIGN(const std::string text, ctl::read_file(path));
  auto tokenizer = Tokenizer::load(chain.model().gguf());
  if (!tokenizer) return fail(std::move(tokenizer).error(), chain.model().path());
  const std::vector<Token> tokens = tokenizer->encode(text, /*control=*/false);
  if (tokens.empty()) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("{}: holds no text", path));
  }
  Windows windows;
  for (std::size_t at = 0; at < tokens.size();) {
    std::vector<std::int32_t>& one = windows.emplace_back();
    if (tokenizer->bos() >= 0) one.push_back(tokenizer->bos());
    const std::size_t count = std::min<std::size_t>(window - one.size(), tokens.size() - at);
    one.insert(one.end(), tokens.begin() + static_cast<std::ptrdiff_t>(at),
               tokens.begin() + static_cast<std::ptrdiff_t>(at + count));
    at += count;
  }
  return windows;
}

Result<Windows> tokens_window(const SliceChain& chain, const std::string& path) {
  DS4_ASSIGN(std::vector<std::int32_t> tokens, load_tokens(path));
  DS4_TRY(check_tokens(tokens, chain.params().n_vocab, chain.params().context_length, path));
  return Windows{std::move(tokens)};
}

Result<int> perplexity(const PerplexityOptions& options) {
  DS4_ASSIGN(SliceChain chain, SliceChain::open(options.engine.chain()));
  const std::uint32_t window = std::min(options.window, chain.params().context_length);
  DS4_ASSIGN(const Windows windows, options.tokens.empty()
                                        ? text_windows(chain, options.text, window)
                                        : tokens_window(chain, options.tokens));
  Perplexity total;
  for (const std::vector<std::int32_t>& one : windows) {
    DS4_ASSIGN(const Perplexity part, score(chain, one));
    total.nll_sum += part.nll_sum;
    total.scored += part.scored;
  }
  if (total.scored == 0) {
    return fail(ErrorCode::kInvalidArgument,
                "one token alone has no perplexity: give a longer text");
  }
  const nlohmann::ordered_json json = {{"perplexity", total.value()},
                                       {"mean_nll", total.mean_nll()},
                                       {"tokens", total.scored},
                                       {"windows", windows.size()}};
  DS4_TRY(ctl::write_stdout(
      options.json
          ? json.dump() + "\n"
          : fmt::format("perplexity {:.4f}  (mean nll {:.5f} over {} tokens in {} windows)\n",
                        total.value(), total.mean_nll(), total.scored, windows.size())));
  return ctl::kExitOk;
}

}  // namespace

void add_perplexity_command(CLI::App& app, Action& action) {
  auto options = std::make_shared<PerplexityOptions>();
  CLI::App* command = app.add_subcommand("perplexity", "How well the model predicts a text");
  add_engine_options(*command, options->engine);
  auto* source = command->add_option_group("source", "What to predict: one of");
  source->add_option("--text", options->text, "UTF-8 text")->type_name("FILE");
  source->add_option("--tokens", options->tokens, "Token ids, taken as they are, as one window")
      ->type_name("FILE");
  source->require_option(1);
  command
      ->add_option(
          "--window", options->window,
          "Most tokens that are read in one go, the begin of sentence included; default 2048")
      ->check(CLI::Range(2, 1 << 24))
      ->type_name("N");
  command->add_flag("--json", options->json, "perplexity, mean_nll, tokens, windows");
  command->callback([options, &action] { action = [options] { return perplexity(*options); }; });
}

}  // namespace ds4::eval
