#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "ctl/common/exit_codes.h"
#include "ctl/ds4_eval/commands.h"
#include "ctl/ds4_eval/engine_options.h"
#include "ctl/ds4_eval/tokens_file.h"

namespace ds4::eval {
namespace {

struct LogitsOptions {
  EngineOptions engine;
  std::string tokens;
  std::string out;
};

/// Appends raw floats to a file; every write is checked, the last one too.
class FloatFile {
 public:
  static Result<FloatFile> create(const std::string& path) {
    FloatFile out(path, std::fopen(path.c_str(), "wb"));
    if (!out.file_) return fail_errno(path);
    return out;
  }
  Result<void> write(std::span<const float> values) {
    if (std::fwrite(values.data(), sizeof(float), values.size(), file_.get()) != values.size()) {
      return fail_errno(path_);
    }
    return {};
  }
  Result<void> close() {
    if (std::fclose(file_.release()) != 0) return fail_errno(path_);
    return {};
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  FloatFile(std::string path, std::FILE* file) : path_(std::move(path)), file_(file) {}

  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

Result<int> logits(const LogitsOptions& options) {
  DS4_ASSIGN(const std::vector<std::int32_t> tokens, load_tokens(options.tokens));
  DS4_ASSIGN(SliceChain chain, SliceChain::open(options.engine.chain()));
  const HyperParams& params = chain.params();
  DS4_TRY(check_tokens(tokens, params.n_vocab, params.context_length, options.tokens));
  DS4_TRY(chain.open_session(1, static_cast<std::uint32_t>(tokens.size())));
  DS4_ASSIGN(FloatFile out, FloatFile::create(options.out));
  DS4_TRY(
      chain.append(1, 0, tokens, LogitsWanted::kAll,
                   [&](std::uint32_t, std::span<const float> rows) { return out.write(rows); }));
  DS4_TRY(out.close());
  fmt::print(stderr, "{}: {} positions of {} logits, float32\n", options.out, tokens.size(),
             params.n_vocab);
  return ctl::kExitOk;
}

}  // namespace

void add_logits_command(CLI::App& app, Action& action) {
  auto options = std::make_shared<LogitsOptions>();
  CLI::App* command =
      app.add_subcommand("logits", "Write the logits of every position as raw float32");
  add_engine_options(*command, options->engine);
  command->add_option("--tokens", options->tokens, "Token ids: a JSON array, or ids between blanks")
      ->type_name("FILE")
      ->required();
  command->add_option("--out", options->out, "Receives {tokens, vocabulary} little-endian floats")
      ->type_name("FILE")
      ->required();
  command->callback([options, &action] { action = [options] { return logits(*options); }; });
}

}  // namespace ds4::eval
