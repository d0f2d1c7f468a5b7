#include "engine/cuda/cover_transfer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace ds4::cuda {
namespace {

constexpr std::uint64_t kDirectUnit = 4096;  // of offsets, lengths and addresses, on every disk met
constexpr auto kProgressEvery = std::chrono::milliseconds(100);

/// What the threads of one transfer share.
struct Shared {
  FileReader reader;
  std::span<const Extent> pieces;
  std::atomic<std::size_t> next = 0;
  std::atomic<std::uint64_t> done_bytes = 0;
  std::atomic<bool> stop = false;  // a thread failed: the others look between pieces
  const std::atomic<bool>* cancel;

  std::mutex mutex;  // of what follows
  std::condition_variable changed;
  unsigned running = 0;
  std::optional<Error> error;  // the first one

  Shared(int fd, std::span<const Extent> all, const std::atomic<bool>* asked_to_stop)
      : reader(fd), pieces(all), cancel(asked_to_stop) {}

  void fail_with(Error what) {
    const std::lock_guard lock(mutex);
    if (!error) error = std::move(what);
    stop.store(true, std::memory_order_relaxed);
  }
  void count_out(unsigned threads) {
    const std::lock_guard lock(mutex);
    running -= threads;
    changed.notify_all();
  }
};

Result<void> pump(Shared& shared, CopyLane& lane) {
  while (!shared.stop.load(std::memory_order_relaxed)) {
    if (shared.cancel != nullptr && shared.cancel->load(std::memory_order_relaxed)) {
      return fail(ErrorCode::kCancelled,
                  fmt::format("loading was cancelled after {} bytes", shared.done_bytes.load()));
    }
    const std::size_t index = shared.next.fetch_add(1, std::memory_order_relaxed);
    if (index >= shared.pieces.size()) break;
    const Extent& piece = shared.pieces[index];
    DS4_ASSIGN(const std::span<std::byte> buffer, lane.buffer());
    DS4_TRY(shared.reader.read(piece.file_offset, buffer.first(piece.bytes), buffer.size()));
    DS4_TRY(lane.send(piece.bytes, piece.device_offset));
    shared.done_bytes.fetch_add(piece.bytes, std::memory_order_relaxed);
  }
  return lane.finish();
}

void run_thread(Shared& shared, const LaneMaker& make_lane, unsigned thread) {
  auto lane = make_lane(thread);
  auto ok = lane ? pump(shared, **lane) : Result<void>(tl::unexpected(lane.error()));
  if (lane)
    lane->reset();  // before the caller may take the end of the threads for that of the lanes
  if (!ok) shared.fail_with(std::move(ok).error());
  shared.count_out(1);
}

std::vector<std::jthread> start(Shared& shared, const LaneMaker& make_lane, unsigned count) {
  std::vector<std::jthread> threads;
  shared.running = count;
  for (unsigned i = 0; i < count; ++i) {
    try {
      threads.emplace_back([&shared, &make_lane, i] { run_thread(shared, make_lane, i); });
    } catch (const std::system_error& error) {
      shared.fail_with(
          {ErrorCode::kResourceExhausted,
           fmt::format("start thread {} of {} that read: {}", i + 1, count, error.what())});
      shared.count_out(count - i);
      break;
    }
  }
  return threads;
}

/// Reports until the last thread has ended.
void watch(Shared& shared, const TransferOptions& options, std::uint64_t total_bytes) {
  std::unique_lock lock(shared.mutex);
  while (!shared.changed.wait_for(lock, kProgressEvery, [&] { return shared.running == 0; })) {
    lock.unlock();
    const std::uint64_t done = shared.done_bytes.load(std::memory_order_relaxed);
    if (options.progress) options.progress(done, total_bytes);
    lock.lock();
  }
}

Result<std::uint64_t> read_some(int fd, std::uint64_t offset, std::span<std::byte> out) {
  while (true) {
    const ssize_t n = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (n >= 0) return static_cast<std::uint64_t>(n);
    if (errno != EINTR) return fail_errno(fmt::format("read at offset {}", offset));
  }
}

}  // namespace

FileReader::FileReader(int fd)
    : buffered_fd_(fd),
      direct_fd_(
          ::open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT)),
      direct_(static_cast<bool>(direct_fd_)) {}

Result<void> FileReader::read(std::uint64_t offset, std::span<std::byte> out, std::uint64_t room) {
  std::uint64_t done = 0;
  while (done < out.size()) {
    const std::uint64_t left = out.size() - done;
    // Direct reads are of whole units: the last one of a file reaches beyond its end.
    const std::uint64_t whole = (left + kDirectUnit - 1) & ~(kDirectUnit - 1);
    if (direct() && done % kDirectUnit == 0 && done + whole <= room) {
      const auto n = read_some(direct_fd_.get(), offset + done, {out.data() + done, whole});
      if (n && *n > 0) {
        done += std::min(*n, left);
        continue;
      }
      if (!n) direct_.store(false, std::memory_order_relaxed);  // not on this file system after all
    }
    DS4_ASSIGN(const std::uint64_t n, read_some(buffered_fd_, offset + done, out.subspan(done)));
    if (n == 0) {
      return fail(ErrorCode::kIo, fmt::format("the file ends at {}, where {} more bytes should be",
                                              offset + done, left));
    }
    ::posix_fadvise(buffered_fd_, static_cast<off_t>(offset + done), static_cast<off_t>(n),
                    POSIX_FADV_DONTNEED);
    done += n;
  }
  return {};
}

Result<TransferFigures> transfer(int fd, std::span<const Extent> extents,
                                 const LaneMaker& make_lane, const TransferOptions& options) {
  const std::vector<Extent> pieces = cut(extents, options.chunk_bytes);
  std::uint64_t total_bytes = 0;
  for (const Extent& piece : pieces) total_bytes += piece.bytes;
  Shared shared(fd, pieces, options.cancel);
  {
    const std::vector<std::jthread> threads =
        start(shared, make_lane, std::max(1u, options.threads));
    watch(shared, options, total_bytes);
  }
  if (shared.error) return tl::unexpected(std::move(*shared.error));
  if (options.progress) options.progress(total_bytes, total_bytes);
  return TransferFigures{total_bytes, shared.reader.direct()};
}

}  // namespace ds4::cuda
