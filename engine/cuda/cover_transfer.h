#pragma once
// From the file to a device through a few fixed buffers: the part that knows nothing of CUDA.
//
// Several threads read, because one cannot read as fast as a device copies. Each has two buffers of
// its own: while one is on its way to the device, the other is filled. So there is no queue and
// nothing to lock; threads share a counter that deals out the pieces. The memory in use is what the
// buffers take, however large the model is: the file is read around the page cache where the file
// system can (O_DIRECT), and otherwise the pages are dropped from it behind the reader.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "engine/base/result.h"
#include "engine/base/unique_fd.h"
#include "engine/cuda/device_plan.h"

namespace ds4::cuda {

/// One thread's way to the device. Made, used and destroyed on that thread.
class CopyLane {
 public:
  virtual ~CopyLane() = default;
  /// The buffer to fill next, page-aligned; waits until what it held has left it.
  virtual Result<std::span<std::byte>> buffer() = 0;
  /// Starts to copy the first `bytes` of that buffer to `device_offset`.
  virtual Result<void> send(std::uint64_t bytes, std::uint64_t device_offset) = 0;
  /// Waits until everything sent has arrived.
  virtual Result<void> finish() = 0;
};

using LaneMaker = std::function<Result<std::unique_ptr<CopyLane>>(unsigned thread)>;

struct TransferOptions {
  unsigned threads = 1;
  /// At most the size of a lane's buffers; a multiple of the page size.
  std::uint64_t chunk_bytes = 4u << 20;
  std::function<void(std::uint64_t bytes_done, std::uint64_t bytes_total)> progress;
  const std::atomic<bool>* cancel = nullptr;
};

struct TransferFigures {
  std::uint64_t bytes = 0;
  bool direct_io = false;
};

/// Copies every extent of `fd`. Returns when all bytes have arrived, or with the first error, when
/// every thread has stopped and its lane is gone: kCancelled, kIo (the file became shorter, or its
/// disk failed), or what a lane reported.
Result<TransferFigures> transfer(int fd, std::span<const Extent> extents,
                                 const LaneMaker& make_lane, const TransferOptions& options);

/// Reads at offsets: around the page cache if that works, else through it, leaving nothing there.
/// Thread rule: any number of threads at once.
class FileReader {
 public:
  /// `fd` stays the caller's; the reader opens the same file once more.
  explicit FileReader(int fd);
  /// Fills `out`, whose address and file offset are page-aligned, and whose length may be rounded
  /// up to a page within `room` for direct reads. kIo if the file ends before.
  Result<void> read(std::uint64_t offset, std::span<std::byte> out, std::uint64_t room);
  bool direct() const { return direct_.load(std::memory_order_relaxed); }

 private:
  int buffered_fd_;
  UniqueFd direct_fd_;
  std::atomic<bool> direct_;  // a hint, shared by the threads: partners are its own loads
};

}  // namespace ds4::cuda
