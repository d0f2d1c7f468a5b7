#include "engine/cuda/cover_transfer.h"

#include <fmt/format.h>

#include <algorithm>
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

constexpr auto kProgressEvery = std::chrono::milliseconds(100);

/// What the threads of one transfer share.
struct Shared {
  std::span<const Extent> pieces;
  std::atomic<std::size_t> next = 0;
  std::atomic<std::uint64_t> done_bytes = 0;
  std::atomic<bool> stop = false;  // a thread failed: the others look between pieces
  const std::atomic<bool>* cancel;

  std::mutex mutex;  // of what follows
  std::condition_variable changed;
  unsigned running = 0;
  std::optional<Error> error;  // the first one

  Shared(std::span<const Extent> all, const std::atomic<bool>* asked_to_stop)
      : pieces(all), cancel(asked_to_stop) {}

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

Result<void> pump(Shared& shared, ByteSource& source, CopyLane& lane) {
  while (!shared.stop.load(std::memory_order_relaxed)) {
    if (shared.cancel != nullptr && shared.cancel->load(std::memory_order_relaxed)) {
      return fail(ErrorCode::kCancelled,
                  fmt::format("loading was cancelled after {} bytes", shared.done_bytes.load()));
    }
    const std::size_t index = shared.next.fetch_add(1, std::memory_order_relaxed);
    if (index >= shared.pieces.size()) break;
    const Extent& piece = shared.pieces[index];
    DS4_ASSIGN(const std::span<std::byte> buffer, lane.buffer());
    DS4_TRY(source.read(piece.file_offset, buffer.first(piece.bytes)));
    DS4_TRY(lane.send(piece.bytes, piece.device_place));
    shared.done_bytes.fetch_add(piece.bytes, std::memory_order_relaxed);
  }
  return lane.finish();
}

Result<void> run(Shared& shared, const Makers& makers, unsigned thread) {
  DS4_ASSIGN(const auto source, makers.source());
  DS4_ASSIGN(const auto lane, makers.lane(thread));
  return pump(shared, *source, *lane);
}

void run_thread(Shared& shared, const Makers& makers, unsigned thread) {
  if (auto ok = run(shared, makers, thread); !ok) shared.fail_with(std::move(ok).error());
  shared.count_out(1);
}

std::vector<std::jthread> start(Shared& shared, const Makers& makers, unsigned count) {
  std::vector<std::jthread> threads;
  shared.running = count;
  for (unsigned i = 0; i < count; ++i) {
    try {
      threads.emplace_back([&shared, &makers, i] { run_thread(shared, makers, i); });
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

}  // namespace

Result<std::uint64_t> transfer(std::span<const Extent> extents, const Makers& makers,
                               const TransferOptions& options) {
  const std::vector<Extent> pieces = cut(extents, options.chunk_bytes);
  std::uint64_t total_bytes = 0;
  for (const Extent& piece : pieces) total_bytes += piece.bytes;
  Shared shared(pieces, options.cancel);
  {
    const std::vector<std::jthread> threads = start(shared, makers, std::max(1u, options.threads));
    watch(shared, options, total_bytes);
  }
  if (shared.error) return tl::unexpected(std::move(*shared.error));
  if (options.progress) options.progress(total_bytes, total_bytes);
  return total_bytes;
}

}  // namespace ds4::cuda
