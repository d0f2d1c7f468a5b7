#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "agent/wire/cover_report.h"
#include "ctl/common/exit_codes.h"
#include "ctl/common/terminal.h"
#include "ctl/ds4ctl/commands.h"
#include "ctl/ds4ctl/cover_report.h"
#include "engine/base/bytes_text.h"
#include "engine/gguf/model_file.h"
#include "engine/model/hyper_params.h"

namespace ds4::ctl {
namespace {

struct CoverOptions {
  std::string model;
  std::string layers;
  std::uint64_t page_bytes = 0;
  bool json = false;
};

Result<int> cover(const CoverOptions& options) {
  DS4_ASSIGN(const auto file, ModelFile::open(options.model));
  auto params = HyperParams::read(file->gguf());
  if (!params) return fail(std::move(params).error(), options.model);
  DS4_ASSIGN(const LayerRange range, LayerRange::parse(options.layers, params->n_layer));
  const std::uint64_t page_bytes = options.page_bytes != 0
                                       ? options.page_bytes
                                       : static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  DS4_ASSIGN(const SpanCover spans, SpanCover::of(file->gguf(), range, page_bytes));
  DS4_TRY(write_stdout(options.json ? wire::to_json_text(wire::report_of(spans)) + "\n"
                                    : cover_text(spans, range)));
  return kExitOk;
}

}  // namespace

void add_cover_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<CoverOptions>();
  CLI::App* command = app.add_subcommand(
      "cover", "Show which bytes of a model file a range of layers owns; asks no agent");
  command->add_option("--model", options->model, "GGUF file")->type_name("FILE")->required();
  command->add_option("--layers", options->layers, "A:B or A:output")
      ->type_name("RANGE")
      ->required();
  command
      ->add_option("--page-bytes", options->page_bytes,
                   "Page size of the machine that will hold it; default: this one's")
      ->check(CLI::IsMember({4096, 16384, 65536}));
  command->add_flag("--json", options->json, "Print the intervals as JSON");
  command->callback(
      [options, &invocation] { invocation.action = [options] { return cover(*options); }; });
}

}  // namespace ds4::ctl
