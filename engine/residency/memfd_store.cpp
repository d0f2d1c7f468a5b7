#include "engine/residency/memfd_store.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <mutex>

#include "engine/residency/memfd_part.h"
#include "engine/residency/memory_lock.h"

namespace ds4 {
namespace {

bool owns_part(const LayerRange& range, const std::string& name) {
  if (name == "output") return range.output;
  const auto layer = static_cast<std::uint32_t>(std::stoul(name.substr(1)));
  return layer >= range.first && layer <= range.last;
}

class MemfdStore final : public PageStore {
 public:
  MemfdStore(std::shared_ptr<const ModelFile> model, std::unique_ptr<ByteSource> source,
             const MemfdOptions& options)
      : model_(std::move(model)), source_(std::move(source)), options_(options) {}

  std::string_view name() const override { return "memfd"; }
  bool shows_the_file() const override { return false; }
  bool owns_pages() const override { return true; }

  void leave() override {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
  }

  Result<void> fetch(const LayerRange& range, std::span<const Interval> missing, SpanMap& map,
                     LoadRun& run) override;
  void release(std::span<const Interval> gone, std::span<const LayerRange> kept,
               SpanMap& map) override;

 private:
  struct Part {
    PartPlan plan;
    UniqueFd fd;
    Intervals mapped;   // of its cover, those that were mapped from here
    bool kept = false;  // the keeper has it
  };

  Result<UniqueFd> part_fd(const PartPlan& plan, std::span<const Interval> missing, LoadRun& run);
  UniqueFd adopt(const PartPlan& plan, std::span<const Interval> missing, LoadRun& run);
  bool has(const std::string& name);
  /// Maps of `wanted` what the parts hold, each byte once; returns what none of them holds.
  Result<Intervals> map_from_parts(Intervals wanted, SpanMap& map);
  std::string kept_name(const Part& part) const {
    return memfd_part_name(model_->fingerprint(), part.plan.name);
  }

  const std::shared_ptr<const ModelFile> model_;
  const std::unique_ptr<ByteSource> source_;
  const MemfdOptions options_;

  std::mutex mutex_;  // of what follows
  std::vector<Part> parts_;
  bool locks_ = false;  // so the last load wished
  bool leaving_ = false;
};

bool MemfdStore::has(const std::string& name) {
  const std::lock_guard lock(mutex_);
  return std::ranges::any_of(parts_, [&](const Part& part) { return part.plan.name == name; });
}

UniqueFd MemfdStore::adopt(const PartPlan& plan, std::span<const Interval> missing, LoadRun& run) {
  if (options_.keeper == nullptr) return {};
  const std::string name = memfd_part_name(model_->fingerprint(), plan.name);
  UniqueFd fd = options_.keeper->take(name);
  if (!fd) return {};
  if (const auto ok = check_part(*model_, plan, fd.get()); !ok) {
    run.store_note =
        fmt::format("{} was left in memory but is not taken: {}", name, ok.error().message);
    options_.keeper->forget(name);
    return {};
  }
  run.count_adopted(total_bytes(intersection(plan.cover.intervals(), missing)));
  return fd;
}

Result<UniqueFd> MemfdStore::part_fd(const PartPlan& plan, std::span<const Interval> missing,
                                     LoadRun& run) {
  if (UniqueFd fd = adopt(plan, missing, run)) return fd;
  return copy_part(*model_, plan, missing, *source_, options_.huge_pages, run);
}

Result<Intervals> MemfdStore::map_from_parts(Intervals wanted, SpanMap& map) {
  for (Part& part : parts_) {
    const Intervals here = intersection(wanted, part.plan.cover.intervals());
    for (const Interval& interval : here) DS4_TRY(map.map(part.fd.get(), interval));
    part.mapped = united(part.mapped, here);
    wanted = difference(wanted, here);
  }
  return wanted;
}

Result<void> MemfdStore::fetch(const LayerRange& range, std::span<const Interval> missing,
                               SpanMap& map, LoadRun& run) {
  DS4_ASSIGN(std::vector<PartPlan> plans, plan_parts(*model_, range));
  Intervals uncounted(missing.begin(), missing.end());
  for (PartPlan& plan : plans) {
    if (has(plan.name)) continue;
    DS4_TRY(run.go_on());
    DS4_ASSIGN(UniqueFd fd, part_fd(plan, uncounted, run));
    uncounted = difference(uncounted, plan.cover.intervals());  // border pages count once
    const std::lock_guard lock(mutex_);
    parts_.push_back({std::move(plan), std::move(fd), {}, false});
  }
  {
    const std::lock_guard lock(mutex_);
    locks_ = run.options().lock;
    DS4_TRY(map_from_parts({missing.begin(), missing.end()}, map));
  }
  MemoryLocker locker(run);
  for (const Interval& interval : missing) {
    DS4_TRY(populate(map.base() + interval.begin, interval.bytes()));
    DS4_TRY(locker.lock(map.base() + interval.begin, interval.bytes()));
  }
  locker.conclude();
  if (options_.keeper == nullptr) return {};
  const std::lock_guard lock(mutex_);
  for (Part& part : parts_) {  // whole, all of them: now they may be found by others
    if (!part.kept) options_.keeper->keep(kept_name(part), part.fd.get());
    part.kept = true;
  }
  return {};
}

void MemfdStore::release(std::span<const Interval> gone, std::span<const LayerRange> kept,
                         SpanMap& map) {
  const std::lock_guard lock(mutex_);
  for (const Interval& interval : gone) map.unmap(interval);
  const auto dropped = std::stable_partition(parts_.begin(), parts_.end(), [&](const Part& part) {
    return std::ranges::any_of(
        kept, [&](const LayerRange& range) { return owns_part(range, part.plan.name); });
  });
  Intervals orphans;  // pages on a border, still wanted, whose part goes
  for (auto part = dropped; part != parts_.end(); ++part) {
    orphans = united(orphans, difference(part->mapped, gone));
    if (part->kept && !leaving_) options_.keeper->forget(kept_name(*part));
  }
  parts_.erase(dropped, parts_.end());
  for (Part& part : parts_) part.mapped = difference(part.mapped, gone);
  // The same bytes from another part, put in their place in one system call: a thread that reads
  // them meanwhile waits for it.
  if (const auto moved = map_from_parts(orphans, map); !moved) return;  // the old pages stay
  for (const Interval& interval : orphans) {
    (void)populate(map.base() + interval.begin, interval.bytes());
    if (locks_) (void)::mlock(map.base() + interval.begin, interval.bytes());
  }
}

}  // namespace

std::unique_ptr<PageStore> make_memfd_store(std::shared_ptr<const ModelFile> model,
                                            std::unique_ptr<ByteSource> source,
                                            const MemfdOptions& options) {
  return std::make_unique<MemfdStore>(std::move(model), std::move(source), options);
}

std::string memfd_part_name(std::string_view fingerprint, std::string_view part) {
  return fmt::format("ds4.{}.{}", fingerprint, part);
}

}  // namespace ds4
