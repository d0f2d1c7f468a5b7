#pragma once
// From the file to a device through a few fixed buffers: the part that knows nothing of CUDA.
//
// Several threads read, because one cannot read as fast as a device copies. Each has two buffers of
// its own: while one is on its way to the device, the other is filled. So there is no queue and
// nothing to lock; threads share a counter that deals out the pieces. The memory in use is what the
// buffers take, however large the model is.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "engine/base/result.h"
#include "engine/cuda/device_plan.h"
#include "engine/residency/byte_source.h"

namespace ds4::cuda {

/// One thread's way to the device. Made, used and destroyed on that thread.
class CopyLane {
 public:
  virtual ~CopyLane() = default;
  /// The buffer to fill next, page-aligned; waits until what it held has left it.
  virtual Result<std::span<std::byte>> buffer() = 0;
  /// Starts to copy the first `bytes` of that buffer to `device_place`.
  virtual Result<void> send(std::uint64_t bytes, std::uint64_t device_place) = 0;
  /// Waits until everything sent has arrived.
  virtual Result<void> finish() = 0;
};

/// Called on the thread that will use the result.
struct Makers {
  std::function<Result<std::unique_ptr<ByteSource>>()> source;
  std::function<Result<std::unique_ptr<CopyLane>>(unsigned thread)> lane;  // counting from 0
};

struct TransferOptions {
  unsigned threads = 1;
  /// At most the size of a lane's buffers; a multiple of the page size.
  std::uint64_t chunk_bytes = 4u << 20;
  std::function<void(std::uint64_t bytes_done, std::uint64_t bytes_total)> progress = {};
  const std::atomic<bool>* cancel = nullptr;
};

/// Copies every extent to its place. Returns the bytes copied when all have arrived, or the first
/// error when every thread has stopped and its lane and source are gone: kCancelled, kIo (the file
/// became shorter, or its disk failed), or what a lane or a maker reported.
Result<std::uint64_t> transfer(std::span<const Extent> extents, const Makers& makers,
                               const TransferOptions& options);

}  // namespace ds4::cuda
