// `ds4ctl run`: a client like any other, over shared memory.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <thread>

#include "ctl/common/exit_codes.h"
#include "ctl/common/sampling_options.h"
#include "ctl/common/terminal.h"
#include "ctl/common/text_writer.h"
#include "ctl/ds4ctl/commands.h"
#include "ipc/client/ds4.hpp"

namespace ds4::ctl {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kWait{100};  // between two looks at Ctrl-C
constexpr std::chrono::seconds kCancelPatience{3};

struct RunOptions {
  std::string prompt;
  std::string system;
  std::string socket;
  std::uint32_t max_tokens = 0;
  std::uint32_t wait_s = 0;  // for a route or an agent that went away
  SamplingParams sampling;
  bool raw = false;
  bool stats = false;
};

/// When things happened, for --stats.
struct Timing {
  Clock::time_point submitted;
  std::optional<Clock::time_point> first_token;
  Clock::time_point last_token;

  void on_token() {
    last_token = Clock::now();
    if (!first_token) first_token = last_token;
  }
};

/// Everything counts from the submission: when the client happened to look at its ring between two
/// tokens says nothing about the agent.
void print_stats(const Timing& timing, const client::Event& final) {
  const auto ms_since_submission = [&](Clock::time_point then) {
    return std::chrono::duration<double, std::milli>(then - timing.submitted).count();
  };
  if (!timing.first_token) {
    fmt::print(stderr, "prompt {} tokens; no answer; {}\n", final.prompt_tokens,
               ds4_status_name(final.status));
    return;
  }
  const double all_ms = ms_since_submission(timing.last_token);
  fmt::print(stderr,
             "prompt {} tokens, first token after {:.1f} ms; answer {} tokens in {:.1f} ms, {:.0f} "
             "tokens/s; {}\n",
             final.prompt_tokens, ms_since_submission(*timing.first_token), final.generated_tokens,
             all_ms, all_ms > 0 ? final.generated_tokens / all_ms * 1e3 : 0.0,
             ds4_status_name(final.status));
}

/// Raw text stands as it is, with control tokens where their texts stand and the begin of sentence
/// before it; otherwise it is a question in the model's chat format.
std::vector<client::Token> tokens_of(const client::Connection& connection,
                                     const RunOptions& options, const std::string& prompt) {
  if (!options.raw) {
    std::vector<client::Message> messages;
    if (!options.system.empty()) {
      messages.push_back({client::Message::Role::kSystem, options.system});
    }
    messages.push_back({client::Message::Role::kUser, prompt});
    return connection.chat(messages);
  }
  std::vector<client::Token> tokens = connection.tokenize(prompt, /*control=*/true);
  const client::Token bos = connection.info().bos;
  if (bos >= 0 && (tokens.empty() || tokens.front() != bos)) tokens.insert(tokens.begin(), bos);
  return tokens;
}

/// Streams the request's text until its final. Ctrl-C or a reader that went away cancels it; an
/// agent that does not confirm that in time is left alone.
Result<int> stream(client::Connection& connection, client::RequestId id, const RunOptions& options,
                   Timing& timing) {
  client::Decoder decoder = connection.decoder();
  TextWriter writer;
  std::optional<Clock::time_point> cancelled;
  for (;;) {
    if (!cancelled && (InterruptGuard::interrupted() || !writer.result())) {
      connection.cancel(id);
      cancelled = Clock::now();
    }
    if (cancelled && Clock::now() - *cancelled > kCancelPatience) break;
    const std::optional<client::Event> event = connection.next(kWait);
    if (!event || event->request != id) continue;
    if (client::is_token(*event)) {
      timing.on_token();
      if (!cancelled) writer.write(decoder.push(event->token));
    } else if (client::is_final(*event)) {
      const std::string sentence = event->sentence;
      writer.write(decoder.finish());
      writer.end_line();
      DS4_TRY(writer.result());
      if (options.stats) print_stats(timing, *event);
      if (ds4_is_error(event->status) != 0) return fail(ErrorCode::kUnavailable, sentence);
      return event->status == DS4_CANCELLED ? kExitInterrupted : kExitOk;
    }
  }
  writer.end_line();
  DS4_TRY(writer.result());
  return kExitInterrupted;
}

/// An agent that is not there yet is waited for as one that goes away later.
client::Connection connect(const RunOptions& options) {
  ds4_connect_options connect = DS4_CONNECT_OPTIONS_INIT;
  connect.reconnect_ms = options.wait_s == 0 ? DS4_NEVER : options.wait_s * 1000;
  const auto end = Clock::now() + std::chrono::seconds(options.wait_s);
  for (;;) {
    try {
      return client::Connection(options.socket, connect);
    } catch (const client::Error& error) {
      if (!error.retryable() || Clock::now() >= end || InterruptGuard::interrupted()) throw;
    }
    std::this_thread::sleep_for(kWait);
  }
}

Result<int> run(const RunOptions& options) try {
  std::string prompt = options.prompt;
  if (prompt == "-") prompt.assign(std::istreambuf_iterator<char>(std::cin), {});

  const InterruptGuard guard;
  client::Connection connection = connect(options);
  const std::vector<client::Token> tokens = tokens_of(connection, options, prompt);
  client::Request request;
  request.prompt = tokens;
  request.max_tokens = options.max_tokens;
  request.resume = options.wait_s > 0;
  request.temperature = options.sampling.temperature;
  request.top_p = options.sampling.top_p;
  request.min_p = options.sampling.min_p;
  request.top_k = options.sampling.top_k;
  request.seed = options.sampling.seed;
  Timing timing{.submitted = Clock::now(), .first_token = {}, .last_token = {}};
  const client::RequestId id = connection.submit(request);
  return stream(connection, id, options, timing);
} catch (const client::Error& error) {
  return fail(ErrorCode::kUnavailable, error.what());
}

}  // namespace

void add_run_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command =
      app.add_subcommand("run", "Ask the agent of this machine; the answer streams to stdout");
  command->add_option("prompt", options->prompt, "The question; - reads it from standard input")
      ->type_name("PROMPT")
      ->required();
  command->add_option("-n,--tokens", options->max_tokens,
                      "At most so many tokens; 0 (default): until the model stops");
  add_sampling_options(*command, options->sampling);
  command->add_option("--system", options->system, "System prompt")->type_name("TEXT");
  command->add_flag("--raw", options->raw, "No chat format: continue the text as it stands");
  command
      ->add_option(
          "--wait", options->wait_s,
          "If an agent of the route is away or goes, wait so long for its return and go on with "
          "the next token; default 0: fail at once")
      ->type_name("SECONDS")
      ->check(CLI::Range(0, 86'400));
  command->add_flag("--stats", options->stats, "Tokens per second on stderr at the end");
  command
      ->add_option("--socket", options->socket, "The agent's socket; default /run/ds4d/client.sock")
      ->type_name("PATH");
  command->callback(
      [options, &invocation] { invocation.action = [options] { return run(*options); }; });
}

}  // namespace ds4::ctl
