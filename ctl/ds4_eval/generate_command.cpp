#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "ctl/common/exit_codes.h"
#include "ctl/common/sampling_options.h"
#include "ctl/common/terminal.h"
#include "ctl/common/text_writer.h"
#include "ctl/ds4_eval/commands.h"
#include "ctl/ds4_eval/engine_options.h"
#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"

namespace ds4::eval {
namespace {

constexpr std::uint32_t kDefaultTokens = 8192;  // an end for a model that finds none

struct GenerateOptions {
  EngineOptions engine;
  std::string prompt;
  std::string system;
  std::uint32_t max_tokens = 0;
  SamplingParams sampling;
  bool raw = false;
};

/// As `ds4ctl run` makes them, so that the two can be compared.
Result<std::vector<Token>> prompt_of(const Tokenizer& tokenizer, const GenerateOptions& options) {
  if (!options.raw) {
    std::vector<ChatMessage> messages;
    if (!options.system.empty()) messages.push_back({Role::kSystem, options.system});
    messages.push_back({Role::kUser, options.prompt});
    return render_chat(tokenizer, messages);
  }
  std::vector<Token> tokens = tokenizer.encode(options.prompt, /*control=*/true);
  const Token bos = tokenizer.bos();
  if (bos >= 0 && (tokens.empty() || tokens.front() != bos)) tokens.insert(tokens.begin(), bos);
  return tokens;
}

/// How many tokens may be made after a prompt of `prompt_tokens`.
Result<std::uint32_t> room_for(std::size_t prompt_tokens, std::uint32_t max_tokens,
                               std::uint32_t model_context) {
  if (prompt_tokens >= model_context) {
    return fail(ErrorCode::kOutOfRange,
                fmt::format("a prompt of {} tokens leaves no room in the model's context of {}",
                            prompt_tokens, model_context));
  }
  const auto left = model_context - static_cast<std::uint32_t>(prompt_tokens);
  return std::min(max_tokens != 0 ? max_tokens : kDefaultTokens, left);
}

Result<int> generate(const GenerateOptions& options) {
  constexpr SessionId kSession = 1;
  DS4_ASSIGN(SliceChain chain, SliceChain::open(options.engine.chain()));
  auto tokenizer = Tokenizer::load(chain.model().gguf());
  if (!tokenizer) return fail(std::move(tokenizer).error(), options.engine.model);
  DS4_ASSIGN(std::vector<Token> input, prompt_of(*tokenizer, options));
  DS4_ASSIGN(const std::uint32_t room,
             room_for(input.size(), options.max_tokens, chain.params().context_length));
  DS4_TRY(chain.open_session(kSession, static_cast<std::uint32_t>(input.size()) + room));

  const ctl::InterruptGuard guard;
  ctl::TextWriter writer;
  Detokenizer detokenizer(*tokenizer);
  std::uint32_t position = 0;
  for (std::uint32_t made = 0; made < room && !ctl::InterruptGuard::interrupted(); ++made) {
    DS4_ASSIGN(const SampledToken sampled,
               chain.sample_after(kSession, position, input, options.sampling));
    const Token next = sampled.token;
    if (next == tokenizer->eos()) break;
    writer.write(detokenizer.push(next));
    DS4_TRY(writer.result());
    position += static_cast<std::uint32_t>(input.size());
    input.assign(1, next);
  }
  writer.write(detokenizer.finish());
  writer.end_line();
  DS4_TRY(writer.result());
  return ctl::InterruptGuard::interrupted() ? ctl::kExitInterrupted : ctl::kExitOk;
}

}  // namespace

void add_generate_command(CLI::App& app, Action& action) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand(
      "generate", "Answer a prompt in this process, as `ds4ctl run` does by agents");
  add_engine_options(*command, options->engine);
  command->add_option("--prompt", options->prompt, "The question")->type_name("TEXT")->required();
  command->add_option("--system", options->system, "System prompt")->type_name("TEXT");
  command->add_option("-n,--tokens", options->max_tokens,
                      "At most so many tokens; 0 (default): until the model stops");
  ctl::add_sampling_options(*command, options->sampling);
  command->add_flag("--raw", options->raw, "No chat format: continue the text as it stands");
  command->callback([options, &action] { action = [options] { return generate(*options); }; });
}

}  // namespace ds4::eval
