// The page cache as residence.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>

#include "engine/gguf/model_file.h"
#include "engine/residency/memory_lock.h"
#include "engine/residency/page_store.h"

namespace ds4 {
namespace {

/// Starts the disk on [offset, offset + bytes). In small steps, because the kernel cuts each
/// request down to a device's own limit; without this, page faults would read 128 KiB at a time.
void start_reading(int fd, std::uint64_t offset, std::uint64_t bytes) {
  constexpr std::uint64_t kStepBytes = 512u << 10;
  for (std::uint64_t done = 0; done < bytes; done += kStepBytes) {
    ::posix_fadvise(fd, static_cast<off_t>(offset + done),
                    static_cast<off_t>(std::min(kStepBytes, bytes - done)), POSIX_FADV_WILLNEED);
  }
}

class FileStore final : public PageStore {
 public:
  FileStore(std::shared_ptr<const ModelFile> model, bool drop_released)
      : model_(std::move(model)), drop_released_(drop_released) {}

  std::string_view name() const override { return "file"; }
  void leave() override { drop_released_ = false; }  // the next process may find them there
  bool shows_the_file() const override { return true; }
  bool owns_pages() const override { return false; }

  Result<void> fetch(const LayerRange&, std::span<const Interval> missing, SpanMap& map,
                     LoadRun& run) override {
    MemoryLocker locker(run);
    for (const Interval& interval : missing) {
      DS4_TRY(map.map(model_->fd(), interval));
      DS4_TRY(read_in(interval, map, locker, run));
    }
    locker.conclude();
    return {};
  }

  void release(std::span<const Interval> gone, std::span<const LayerRange>, SpanMap& map) override {
    for (const Interval& interval : gone) {
      map.unmap(interval);
      if (!drop_released_) continue;
      ::posix_fadvise(model_->fd(), static_cast<off_t>(interval.begin),
                      static_cast<off_t>(interval.bytes()), POSIX_FADV_DONTNEED);
    }
  }

 private:
  Result<void> read_in(const Interval& interval, SpanMap& map, MemoryLocker& locker,
                       LoadRun& run) const {
    std::byte* const begin = map.base() + interval.begin;
    // A fault's own readahead would reach into bytes of others; what is to be read is said below.
    ::madvise(begin, interval.bytes(), MADV_RANDOM);
    for (std::uint64_t at = interval.begin; at < interval.end; at += run.chunk_bytes()) {
      DS4_TRY(run.go_on());
      const std::uint64_t bytes = std::min(run.chunk_bytes(), interval.end - at);
      start_reading(model_->fd(), at, bytes);
      if (auto ok = populate(map.base() + at, bytes); !ok) {
        return fail(std::move(ok).error(), fmt::format("read {} bytes at offset {}", bytes, at));
      }
      DS4_TRY(locker.lock(map.base() + at, bytes));
      run.count_read(bytes);
    }
    ::madvise(begin, interval.bytes(), MADV_NORMAL);
    return {};
  }

  const std::shared_ptr<const ModelFile> model_;
  std::atomic<bool> drop_released_;
};

}  // namespace

std::unique_ptr<PageStore> make_file_store(std::shared_ptr<const ModelFile> model,
                                           bool drop_released) {
  return std::make_unique<FileStore>(std::move(model), drop_released);
}

}  // namespace ds4
