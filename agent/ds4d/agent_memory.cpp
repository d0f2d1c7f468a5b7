// What the agent knows of its memory: whether a range fits, whether what serves can still be
// trusted, and what became of the model file.
#include <fmt/format.h>

#include <chrono>

#include "agent/ds4d/agent.h"
#include "agent/loader/budget.h"
#include "agent/log/log.h"
#include "agent/plan/layer_loads.h"
#include "engine/model/kv_cache.h"
#include "engine/residency/interval_set.h"
#include "engine/residency/span_map.h"

namespace ds4::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kFileCheckEvery{2};

/// Bytes that the weights hold and that the kernel does not count as available: locked, or of no
/// file.
std::uint64_t held_bytes(const Residence* weights) {
  if (weights == nullptr) return 0;
  const bool held = weights->strategy() == "memfd" || weights->note().empty();
  return held ? weights->cover().cover_bytes() : 0;
}

/// The parts of a running agent that a model's metadata went into: clients have its tokenizer, the
/// links its sizes.
Result<void> check_same_metadata(const ModelFile& before, const ModelFile& now) {
  if (before.metadata_image() == now.metadata_image()) return {};
  return fail(ErrorCode::kMismatch,
              fmt::format("{} is another model now, with other metadata: restart ds4d to use it",
                          now.path()));
}

}  // namespace

Result<void> Agent::check_memory(const LayerRange& range) const {
  const Residence* serving = plane_->weights();
  const auto need_of = [&](const LayerRange& some) {
    MemoryNeed need;
    const auto cover = SpanCover::of(model_->gguf(), some, system_page_bytes());
    if (!cover) return need;  // the load will say why
    const auto held =
        serving != nullptr ? serving->cover().intervals() : std::span<const Interval>();
    need.weight_bytes = total_bytes(united(cover->intervals(), held));
    need.kv_bytes = config_.memory.kv_mib > 0
                        ? std::uint64_t{config_.memory.kv_mib} << 20
                        : KvPlan::make(params_, some, config_.engine.graph, context_).bytes;
    need.scratch_bytes = plan::scratch_bytes(params_, config_.engine.max_rows) +
                         plan::page_table_bytes(need.weight_bytes);
    return need;
  };
  return check_budget(range, host_budget(), need_of);
}

std::uint64_t Agent::host_budget() const {
  return budget_bytes(config_.memory,
                      memory_supply(held_bytes(plane_->weights()) + fd_store_.waiting_bytes()));
}

void Agent::watch_memory() {
  if (const Residence* serving = plane_->weights(); serving != nullptr) {
    if (const auto why = serving->broken()) lose_slice(*why);
  }
  if (Clock::now() < next_file_check_) return;
  next_file_check_ = Clock::now() + kFileCheckEvery;
  if (auto ok = follow_model_file(); !ok) {
    log(LogLevel::kWarning, "{}", ok.error().message);
  }
}

void Agent::lose_slice(std::string_view why) {
  const Stage* stage = plane_->stage();
  if (stage == nullptr) return;
  log(LogLevel::kError, "layers are lost: {}", why);
  act(machine_->on_slice_lost(stage->place().epoch, why, Clock::now()));
}

Result<void> Agent::follow_model_file() {
  const auto now = FileIdentity::of(model_->path());
  if (!now) return {};  // gone from its path: what is open stays open
  const FileIdentity& opened = model_->identity();
  if (*now == opened) return {};
  const bool same_file = now->device == opened.device && now->inode == opened.inode;
  const Residence* serving = plane_->weights();
  if (same_file && serving != nullptr && serving->shows_the_file()) {
    lose_slice(
        fmt::format("{} was written to while its pages served: assign the layers again to "
                    "load what it holds now",
                    model_->path()));
  }
  const auto refuse = [&](const std::string& why) -> Result<void> {
    const bool known = refused_file_ == *now;
    refused_file_ = *now;
    return known ? Result<void>() : fail(ErrorCode::kMismatch, why);
  };
  auto next = ModelFile::open(model_->path());
  if (!next) {
    return refuse(
        fmt::format("the model file changed and cannot be used: {}", next.error().message));
  }
  if (auto same = check_same_metadata(*model_, **next); !same) return refuse(same.error().message);
  log(LogLevel::kNotice, "the model file {} was {}; fingerprint {}, before {}", model_->path(),
      same_file ? "written to" : "replaced", (*next)->fingerprint(), model_->fingerprint());
  model_ = *std::move(next);
  facts_.fingerprint = model_->fingerprint();
  loader_->use_model(model_);
  return {};
}

std::string Agent::kv_formula() const {
  const Assignment* shown = machine_->committed();
  if (shown == nullptr) shown = machine_->preparing();
  if (shown == nullptr) return {};
  auto range = LayerRange::parse(shown->own().layers, params_.n_layer);
  if (!range) return {};
  return KvPlan::make(params_, *range, config_.engine.graph, context_).describe();
}

}  // namespace ds4::agent
