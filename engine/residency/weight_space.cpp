#include "engine/residency/weight_space.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "engine/gguf/model_file.h"
#include "engine/residency/residency_audit.h"

namespace ds4 {
namespace {

/// The header was parsed against this file; one that changed since must not be mapped.
Result<void> check_unchanged(const ModelFile& model) {
  DS4_ASSIGN(const FileIdentity now, FileIdentity::of(model.fd()));
  if (now.bytes != model.file_bytes()) {
    return fail(
        ErrorCode::kMismatch,
        fmt::format("the file had {} bytes when it was opened and has {} now; open it again",
                    model.file_bytes(), now.bytes));
  }
  if (now == model.identity()) return {};
  return fail(ErrorCode::kMismatch, "the file was written to since it was opened; open it again");
}

void append_sentence(std::string& text, const std::string& sentence) {
  if (sentence.empty()) return;
  if (!text.empty()) text += "; ";
  text += sentence;
}

}  // namespace

// ---- claims ----------------------------------------------------------------------------------

WeightSpace::Claim::Claim(Claim&& other) noexcept
    : space_(std::move(other.space_)), id_(other.id_) {}

WeightSpace::Claim& WeightSpace::Claim::operator=(Claim&& other) noexcept {
  std::swap(space_, other.space_);
  std::swap(id_, other.id_);
  return *this;
}

WeightSpace::Claim::~Claim() {
  if (space_ != nullptr) space_->release(id_);
}

// ---- the space -------------------------------------------------------------------------------

WeightSpace::WeightSpace(std::shared_ptr<const ModelFile> model, std::unique_ptr<PageStore> store,
                         SpanMap map)
    : model_(std::move(model)),
      store_(std::move(store)),
      map_(std::move(map)),
      guard_(map_.base(), map_.reserved_bytes()) {}

WeightSpace::~WeightSpace() {
  assert(members_.empty());
}

Result<std::shared_ptr<WeightSpace>> WeightSpace::open(std::shared_ptr<const ModelFile> model,
                                                       std::unique_ptr<PageStore> store) {
  assert(model != nullptr && store != nullptr);
  DS4_ASSIGN(SpanMap map, SpanMap::reserve(model->file_bytes()));
  return std::shared_ptr<WeightSpace>(
      new WeightSpace(std::move(model), std::move(store), std::move(map)));
}

Result<WeightSpace::Loaded> WeightSpace::claim(const LayerRange& range,
                                               const LoadOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  DS4_ASSIGN(SpanCover cover, SpanCover::of(model_->gguf(), range, system_page_bytes()));
  if (cover.spans() == 0) {
    return fail(ErrorCode::kOutOfRange, "the file has no tensors of these layers");
  }
  DS4_TRY(check_unchanged(*model_));
  Loaded loaded;
  Intervals missing;
  {
    const std::lock_guard lock(mutex_);
    missing = difference(cover.intervals(), claimed_locked());
    // From here on nobody else's end can take what is shared; and if this fails, the claim's own
    // end takes back what had come.
    const auto intervals = cover.intervals();
    members_.push_back({++last_id_, range, {intervals.begin(), intervals.end()}});
    loaded.claim = Claim(shared_from_this(), last_id_);
  }
  reset_peak_rss();
  LoadRun run(options, cover.cover_bytes(), cover.cover_bytes() - total_bytes(missing));
  DS4_TRY(run.go_on());
  DS4_TRY(store_->fetch(range, missing, map_, run));
  DS4_TRY(check_unchanged(*model_));  // nobody wrote to it meanwhile
  loaded.cover = std::move(cover);
  loaded.figures = run.figures();
  loaded.figures.peak_rss_bytes = peak_rss_bytes();
  loaded.figures.took = std::chrono::steady_clock::now() - begin;
  append_sentence(loaded.note, run.lock_note);
  append_sentence(loaded.note, run.store_note);
  return loaded;
}

void WeightSpace::release(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(members_, id, &Member::id);
  assert(found != members_.end());
  const Intervals held = std::move(found->intervals);
  members_.erase(found);
  std::vector<LayerRange> kept;
  for (const Member& member : members_) kept.push_back(member.range);
  store_->release(difference(held, claimed_locked()), kept, map_);
}

Intervals WeightSpace::claimed_locked() const {
  Intervals all;
  for (const Member& member : members_) all = united(all, member.intervals);
  return all;
}

Intervals WeightSpace::claimed() const {
  const std::lock_guard lock(mutex_);
  return claimed_locked();
}

std::optional<std::string> WeightSpace::broken() const {
  if (!guard_.broken()) return std::nullopt;
  return fmt::format(
      "{} could not be read at offset {}: it was truncated while in use, or its disk failed",
      model_->path(), guard_.broken_offset());
}

}  // namespace ds4
