#include "engine/cuda/device_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "engine/cuda/cover_transfer.h"
#include "engine/cuda/device_weights.h"
#include "engine/cuda/driver.h"
#include "engine/cuda/pinned_ring.h"
#include "engine/residency/residency_audit.h"
#include "engine/residency/span_map.h"

namespace ds4::cuda {
namespace {

// Sixteen read from memory as fast as a copy engine takes; a disk wants a queue about as deep.
constexpr unsigned kMaxReaders = 16;

unsigned choose_readers(unsigned asked) {
  return asked != 0 ? asked : std::clamp(std::thread::hardware_concurrency(), 1u, kMaxReaders);
}

/// The header was parsed of this file; bytes of another would be nonsense.
Result<void> check_unchanged(const ModelFile& model) {
  DS4_ASSIGN(const FileIdentity now, FileIdentity::of(model.fd()));
  if (now == model.identity()) return {};
  return fail(ErrorCode::kMismatch, "the file was changed since it was opened; open it again");
}

}  // namespace

Result<std::shared_ptr<const CudaWeights>> DeviceStore::load(std::shared_ptr<const ModelFile> model,
                                                             const LayerRange& range,
                                                             const LoadOptions& options) {
  const std::string doing =
      fmt::format("load layers {} of {} into device memory", range.to_string(), model->path());
  const std::lock_guard one_at_a_time(loading_mutex_);
  auto weights = load_locked(std::move(model), range, options);
  if (!weights) return fail(std::move(weights).error(), doing);
  return weights;
}

Result<std::shared_ptr<const CudaWeights>> DeviceStore::load_locked(
    std::shared_ptr<const ModelFile> model, const LayerRange& range, const LoadOptions& options) {
  const Stopwatch watch;
  reset_peak_rss();
  DS4_CUDA_TRY(cudaSetDevice(options_.device), fmt::format("use device {}", options_.device));
  DS4_TRY(check_unchanged(*model));
  DS4_ASSIGN(SpanCover cover, SpanCover::of(model->gguf(), range, system_page_bytes()));
  if (cover.spans() == 0) {
    return fail(ErrorCode::kOutOfRange, "the file has no tensors of these layers");
  }
  DS4_ASSIGN(Loading loading, gather(*model, range));
  if (!loading.missing.empty()) DS4_TRY(copy_missing(*model, loading, options));
  std::vector<Part> parts = std::move(loading.held);
  for (auto& part : loading.made) parts.push_back(hold(std::move(part)));
  loading.figures.took = watch.elapsed();
  loading.figures.peak_rss_bytes = peak_rss_bytes();
  return std::make_shared<DeviceWeights>(options_.device, std::move(model), range, std::move(cover),
                                         std::move(parts), loading.figures,
                                         std::move(loading.note));
}

Result<DeviceStore::Loading> DeviceStore::gather(const ModelFile& model, const LayerRange& range) {
  DS4_ASSIGN(std::vector<PartPlan> plans, plan_parts(model, range));
  Loading loading;
  for (PartPlan& plan : plans) {
    const std::uint64_t bytes = plan.cover.cover_bytes();
    if (bytes == 0) continue;  // a file without this layer
    Part held;
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = held_.find(kept_name_of(options_.device, model, plan));
          found != held_.end()) {
        held = found->second.lock();
      }
    }
    if (held) {
      loading.held.push_back(std::move(held));
      loading.figures.kept_bytes += bytes;
    } else if (auto adopted = adopt(model, plan, loading.note)) {
      loading.made.push_back(std::move(adopted));
      loading.figures.adopted_bytes += bytes;
    } else {
      loading.missing.push_back(std::move(plan));
    }
  }
  return loading;
}

std::shared_ptr<DevicePart> DeviceStore::adopt(const ModelFile& model, const PartPlan& plan,
                                               std::string& note) {
  if (options_.keeper == nullptr) return nullptr;
  const std::string name = kept_name_of(options_.device, model, plan);
  UniqueFd fd = options_.keeper->take(name);
  if (!fd) return nullptr;
  auto part = DevicePart::adopt(options_.device, model, plan, std::move(fd));
  if (part) return std::move(*part);
  options_.keeper->forget(name);
  if (note.empty()) {
    note = fmt::format("part {} was kept in device memory, but is loaded anew: {}", plan.name,
                       part.error().message);
  }
  return nullptr;
}

Result<void> DeviceStore::copy_missing(const ModelFile& model, Loading& loading,
                                       const LoadOptions& options) {
  std::uint64_t wanted_bytes = 0;
  for (const PartPlan& plan : loading.missing) {
    DS4_ASSIGN(const std::uint64_t bytes, part_bytes(options_.device, plan));
    wanted_bytes += bytes;
  }
  DS4_TRY(check_free(options_.device, wanted_bytes));

  std::vector<std::shared_ptr<DevicePart>> parts;
  std::vector<Extent> extents;
  for (const PartPlan& plan : loading.missing) {
    DS4_ASSIGN(auto part, DevicePart::allocate(options_.device, model, plan));
    std::ranges::copy(part->extents(), std::back_inserter(extents));
    parts.push_back(std::move(part));
  }
  const unsigned readers = choose_readers(options_.readers);
  DS4_ASSIGN(const auto ring, PinnedRing::make(options_.device, options_.ring_bytes, readers));
  const std::uint64_t before = loading.figures.kept_bytes + loading.figures.adopted_bytes;
  TransferOptions transfer_options{readers, ring->buffer_bytes(), {}, options.cancel};
  if (options.progress) {
    transfer_options.progress = [&](std::uint64_t done, std::uint64_t total) {
      options.progress(before + done, before + total);
    };
  }
  DS4_ASSIGN(loading.figures.read_bytes, transfer(extents,
                                                  {[&] { return make_file_source(model); },
                                                   [&](unsigned lane) { return ring->lane(lane); }},
                                                  transfer_options));
  DS4_TRY(check_unchanged(model));
  for (const auto& part : parts) DS4_TRY(part->complete());
  std::ranges::move(parts, std::back_inserter(loading.made));
  return {};
}

DeviceStore::Part DeviceStore::hold(std::shared_ptr<DevicePart> part) {
  const int fd = part->fd();
  const std::string name = part->kept_name();
  const DevicePart* const raw = part.get();
  Part held(raw, [store = shared_from_this(), owner = std::move(part)](const DevicePart*) mutable {
    const std::string gone = owner->kept_name();
    owner.reset();
    store->let_go(gone);
  });
  const std::lock_guard lock(mutex_);
  held_[name] = held;
  if (options_.keeper != nullptr) options_.keeper->keep(name, fd);
  return held;
}

void DeviceStore::let_go(const std::string& kept_name) {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(kept_name);
  // A load that ran meanwhile may have made the part anew: then it is not ours to forget.
  if (found == held_.end() || !found->second.expired()) return;
  held_.erase(found);
  if (options_.keeper != nullptr && !leaving_) options_.keeper->forget(kept_name);
}

void DeviceStore::leave() {
  const std::lock_guard lock(mutex_);
  leaving_ = true;
}

}  // namespace ds4::cuda
