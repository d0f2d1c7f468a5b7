#include "engine/cpu/read_bandwidth.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "engine/base/available_memory.h"
#include "engine/cpu/thread_pool.h"

namespace ds4 {
namespace {

constexpr std::uint64_t kPiece = 1 << 20;  // what a thread takes at a time
constexpr std::uint64_t kMost = 512 << 20;

/// Memory of the kernel's usual pages, as a mapped model has them: huge pages, which a file of the
/// page cache does not get, can be read faster by half where page tables are nested.
class Buffer {
 public:
  explicit Buffer(std::uint64_t bytes)
      : bytes_(bytes),
        base_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {}
  ~Buffer() {
    if (ok()) munmap(base_, bytes_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  bool ok() const { return base_ != MAP_FAILED; }
  std::uint64_t* words() const { return static_cast<std::uint64_t*>(base_); }

 private:
  std::uint64_t bytes_;
  void* base_;
};

/// Independent sums, so that loads are never the ones to wait.
std::uint64_t sum(const std::uint64_t* words, std::size_t count) {
  constexpr std::size_t kLanes = 32;
  std::uint64_t sums[kLanes] = {};
  for (std::size_t i = 0; i + kLanes <= count; i += kLanes) {
    for (std::size_t k = 0; k < kLanes; ++k) sums[k] += words[i + k];
  }
  std::uint64_t total = 0;
  for (const std::uint64_t part : sums) total += part;
  return total;
}

}  // namespace

std::uint64_t bandwidth_buffer_bytes() {
  const std::uint64_t available = available_memory_bytes();
  if (available == 0) return kMost;
  return std::max(kPiece, std::min(kMost, available / 4) / kPiece * kPiece);
}

Result<double> read_bandwidth(unsigned threads, std::uint64_t buffer_bytes, unsigned rounds) {
  using Clock = std::chrono::steady_clock;
  const std::uint64_t pieces = std::max<std::uint64_t>(1, buffer_bytes / kPiece);
  const Buffer buffer(pieces * kPiece);
  if (!buffer.ok()) {
    return fail(ErrorCode::kResourceExhausted,
                fmt::format("measuring the memory's speed needs {} MiB that are not there; free "
                            "some memory",
                            pieces * kPiece >> 20));
  }
  constexpr std::size_t kWords = kPiece / sizeof(std::uint64_t);
  cpu::ThreadPool pool(threads);
  // Written first: untouched pages would all be the one page of zeros.
  pool.parallel_for(pieces, 1, [&](std::size_t begin, std::size_t end, unsigned) {
    std::fill(buffer.words() + begin * kWords, buffer.words() + end * kWords, 1);
  });
  std::chrono::duration<double> best = std::chrono::hours(1);
  std::atomic<std::uint64_t> kept{0};  // keeps the reads from being optimised away
  for (unsigned round = 0; round < std::max(1u, rounds); ++round) {
    const auto start = Clock::now();
    pool.parallel_for(pieces, 1, [&](std::size_t begin, std::size_t end, unsigned) {
      kept.fetch_add(sum(buffer.words() + begin * kWords, (end - begin) * kWords),
                     std::memory_order_relaxed);
    });
    best = std::min<std::chrono::duration<double>>(best, Clock::now() - start);
  }
  if (kept.load() == 0) return fail(ErrorCode::kIo, "memory does not hold what was written to it");
  return static_cast<double>(pieces * kPiece) / std::max(1e-9, best.count());
}

}  // namespace ds4
