#include "engine/residency/resident_slice.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cassert>

#include "engine/gguf/model_file.h"
#include "engine/residency/memory_lock.h"
#include "engine/residency/residency_audit.h"
#include "engine/residency/span_map.h"

namespace ds4 {
namespace {

/// The header was parsed against this size; a file that changed since must not be mapped.
Result<void> check_unchanged(const ModelFile& model) {
  struct stat info = {};
  if (::fstat(model.fd(), &info) != 0) return fail_errno("fstat");
  if (static_cast<std::uint64_t>(info.st_size) == model.file_bytes()) return {};
  return fail(ErrorCode::kMismatch,
              fmt::format("the file had {} bytes when it was opened and has {} now; open it again",
                          model.file_bytes(), info.st_size));
}

/// Starts the disk on [offset, offset + bytes). In small steps, because the kernel cuts each
/// request down to a device's own limit; without this, page faults would read 128 KiB at a time.
void start_reading(int fd, std::uint64_t offset, std::uint64_t bytes) {
  constexpr std::uint64_t kStepBytes = 512u << 10;
  for (std::uint64_t done = 0; done < bytes; done += kStepBytes) {
    ::posix_fadvise(fd, static_cast<off_t>(offset + done),
                    static_cast<off_t>(std::min(kStepBytes, bytes - done)), POSIX_FADV_WILLNEED);
  }
}

Result<void> populate_cover(int fd, const SpanMap& map, const SpanCover& cover,
                            const LoadOptions& options) {
  const std::uint64_t page = system_page_bytes();
  constexpr std::uint64_t kMaxChunkBytes = 1u << 30;
  const std::uint64_t chunk_bytes =
      std::clamp(options.chunk_bytes & ~(page - 1), page, kMaxChunkBytes);
  std::uint64_t done = 0;
  for (const Interval& interval : cover.intervals()) {
    for (std::uint64_t at = interval.begin; at < interval.end; at += chunk_bytes) {
      if (options.cancel != nullptr && options.cancel->load(std::memory_order_relaxed)) {
        return fail(ErrorCode::kCancelled, fmt::format("loading was cancelled after {} of {} bytes",
                                                       done, cover.cover_bytes()));
      }
      const std::uint64_t bytes = std::min(chunk_bytes, interval.end - at);
      start_reading(fd, at, bytes);
      if (auto ok = populate(map.base() + at, bytes); !ok) {
        return fail(std::move(ok).error(), fmt::format("read {} bytes at offset {}", bytes, at));
      }
      done += bytes;
      if (options.progress) options.progress(done, cover.cover_bytes());
    }
  }
  return {};
}

}  // namespace

struct ResidentSlice::Impl {
  std::shared_ptr<const ModelFile> model;
  LayerRange range;
  SpanCover cover;
  SpanMap map;
  std::string lock_note;
  std::uint64_t load_peak_bytes = 0;
};

ResidentSlice::ResidentSlice() : impl_(std::make_unique<Impl>()) {}
ResidentSlice::~ResidentSlice() = default;

Result<std::shared_ptr<ResidentSlice>> ResidentSlice::load(std::shared_ptr<const ModelFile> model,
                                                           const LayerRange& range,
                                                           const LoadOptions& options) {
  assert(model != nullptr);
  const std::string doing = fmt::format("load layers {} of {}", range.to_string(), model->path());
  auto cover = SpanCover::of(model->gguf(), range, system_page_bytes());
  if (!cover) return fail(std::move(cover).error(), doing);
  if (cover->spans() == 0) {
    return fail(ErrorCode::kOutOfRange, doing + ": the file has no tensors of these layers");
  }
  if (auto ok = check_unchanged(*model); !ok) return fail(std::move(ok).error(), doing);

  std::shared_ptr<ResidentSlice> slice(new ResidentSlice);
  Impl& impl = *slice->impl_;
  reset_peak_rss();
  auto map = SpanMap::map(model->fd(), *cover);
  if (!map) return fail(std::move(map).error(), doing);
  impl.map = std::move(*map);
  if (auto ok = populate_cover(model->fd(), impl.map, *cover, options); !ok) {
    return fail(std::move(ok).error(), doing);
  }
  impl.lock_note = options.lock ? lock_cover(impl.map.base(), *cover)
                                : "nothing is locked: locking was not asked for";
  impl.load_peak_bytes = peak_rss_bytes();
  impl.model = std::move(model);
  impl.range = range;
  impl.cover = std::move(*cover);
  return slice;
}

Result<TensorView> ResidentSlice::tensor(std::string_view name) const {
  const TensorInfo* info = impl_->model->gguf().find(name);
  if (info == nullptr) {
    return fail(ErrorCode::kNotFound, fmt::format("the model file has no tensor '{}'", name));
  }
  if (!impl_->range.owns(name)) {
    return fail(ErrorCode::kOutOfRange,
                fmt::format("tensor '{}' does not belong to layers {}, which are all this slice "
                            "holds",
                            name, impl_->range.to_string()));
  }
  assert(impl_->cover.contains(info->offset, info->bytes));
  return TensorView{info, {impl_->map.base() + info->offset, info->bytes}};
}

Result<Residency> ResidentSlice::audit() const {
  return audit_mapping(impl_->model->fd(), impl_->map.base(), impl_->map.reserved_bytes(),
                       impl_->cover);
}

const ModelFile& ResidentSlice::model() const {
  return *impl_->model;
}
const LayerRange& ResidentSlice::range() const {
  return impl_->range;
}
const SpanCover& ResidentSlice::cover() const {
  return impl_->cover;
}
const std::string& ResidentSlice::lock_note() const {
  return impl_->lock_note;
}
std::uint64_t ResidentSlice::load_peak_bytes() const {
  return impl_->load_peak_bytes;
}
const std::byte* ResidentSlice::reservation() const {
  return impl_->map.base();
}

}  // namespace ds4
