#pragma once
// The fixed pinned memory through which bytes reach the device, and the lanes that use it.
#include <cstddef>
#include <cstdint>
#include <memory>

#include "engine/base/result.h"
#include "engine/cuda/cover_transfer.h"

namespace ds4::cuda {

/// Owner of pinned host memory, page-aligned. Not movable: lanes point into it.
class PinnedRing {
 public:
  /// Room for `lanes` lanes of two buffers each, `bytes` in all.
  static Result<std::unique_ptr<PinnedRing>> make(int device, std::uint64_t bytes, unsigned lanes);
  ~PinnedRing();
  PinnedRing(const PinnedRing&) = delete;
  PinnedRing& operator=(const PinnedRing&) = delete;

  std::uint64_t bytes() const { return 2 * buffer_bytes_ * lanes_; }
  std::uint64_t buffer_bytes() const { return buffer_bytes_; }
  /// Lane number `index`, whose places are device addresses. Call it on the lane's own thread.
  Result<std::unique_ptr<CopyLane>> lane(unsigned index);

 private:
  PinnedRing(int device, std::byte* memory, std::uint64_t buffer_bytes, unsigned lanes)
      : device_(device), memory_(memory), buffer_bytes_(buffer_bytes), lanes_(lanes) {}
  const int device_;
  std::byte* const memory_;
  const std::uint64_t buffer_bytes_;
  const unsigned lanes_;
};

}  // namespace ds4::cuda
