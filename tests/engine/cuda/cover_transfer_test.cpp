// The transfer with memory in place of a device.
#include "engine/cuda/cover_transfer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <utility>

namespace ds4::cuda {
namespace {

constexpr std::uint64_t kPage = 4096;

class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::span<const std::byte> file) : file_(file) {}
  Result<void> read(std::uint64_t offset, std::span<std::byte> out) override {
    if (offset + out.size() > file_.size()) return fail(ErrorCode::kIo, "the file shrank");
    std::ranges::copy(file_.subspan(offset, out.size()), out.begin());
    return {};
  }

 private:
  std::span<const std::byte> file_;
};

struct Device {
  std::vector<std::byte> memory;
  std::mutex mutex;
  std::set<std::thread::id> threads;
  int lanes_alive = 0;
  std::uint64_t fail_at_place = UINT64_MAX;
};

/// Two buffers; what is sent leaves only when the buffer is asked for again, as late as a device
/// may.
class LateLane final : public CopyLane {
 public:
  explicit LateLane(Device& device)
      : device_(device), buffers_(2, std::vector<std::byte>(4 * kPage)) {
    const std::lock_guard lock(device_.mutex);
    ++device_.lanes_alive;
    device_.threads.insert(std::this_thread::get_id());
  }
  ~LateLane() override {
    const std::lock_guard lock(device_.mutex);
    --device_.lanes_alive;
  }
  Result<std::span<std::byte>> buffer() override {
    leave(turn_);
    return std::span(buffers_[turn_]);
  }
  Result<void> send(std::uint64_t bytes, std::uint64_t place) override {
    if (place == device_.fail_at_place) return fail(ErrorCode::kUnavailable, "the device is gone");
    pending_[turn_] = {bytes, place};
    turn_ ^= 1;
    return {};
  }
  Result<void> finish() override {
    leave(0);
    leave(1);
    return {};
  }

 private:
  struct Pending {
    std::uint64_t bytes = 0;
    std::uint64_t place = 0;
  };
  void leave(std::size_t which) {
    const auto [bytes, place] = std::exchange(pending_[which], {});
    std::copy_n(buffers_[which].begin(), bytes,
                device_.memory.begin() + static_cast<std::ptrdiff_t>(place));
  }
  Device& device_;
  std::vector<std::vector<std::byte>> buffers_;
  Pending pending_[2];
  std::size_t turn_ = 0;
};

class CoverTransfer : public testing::Test {
 protected:
  CoverTransfer() : file_(100 * kPage + 123) {
    std::mt19937_64 random(3);
    for (std::byte& byte : file_) byte = static_cast<std::byte>(random());
    device_.memory.resize(80 * kPage);
  }
  Makers makers() {
    return {[this]() -> Result<std::unique_ptr<ByteSource>> {
              return std::make_unique<MemorySource>(file_);
            },
            [this](unsigned) -> Result<std::unique_ptr<CopyLane>> {
              return std::make_unique<LateLane>(device_);
            }};
  }
  void expect_arrived(const Extent& extent) {
    EXPECT_EQ(std::memcmp(device_.memory.data() + extent.device_place,
                          file_.data() + extent.file_offset, extent.bytes),
              0)
        << "extent at " << extent.file_offset;
  }

  std::vector<std::byte> file_;
  Device device_;
  // The last one ends with the file, inside a page.
  const std::vector<Extent> extents_ = {{0, 40 * kPage, 0},
                                        {60 * kPage, kPage, 40 * kPage},
                                        {90 * kPage, 10 * kPage + 123, 41 * kPage}};
};

TEST_F(CoverTransfer, BringsEveryByteToItsPlace) {
  for (const unsigned threads : {1u, 2u, 7u}) {
    std::ranges::fill(device_.memory, std::byte{0xAA});
    const auto bytes = transfer(extents_, makers(), {.threads = threads, .chunk_bytes = 4 * kPage});
    ASSERT_TRUE(bytes) << bytes.error().message;
    EXPECT_EQ(*bytes, 51 * kPage + 123);
    for (const Extent& extent : extents_) expect_arrived(extent);
    EXPECT_EQ(device_.memory[51 * kPage + 123], std::byte{0xAA}) << "beyond the last byte";
    EXPECT_EQ(device_.lanes_alive, 0);
  }
}

TEST_F(CoverTransfer, ReportsTheWholeAtTheEndOnTheCallersThread) {
  std::uint64_t last = 0;
  std::uint64_t total = 0;
  std::thread::id thread;
  TransferOptions options{.threads = 3, .chunk_bytes = kPage};
  options.progress = [&](std::uint64_t done, std::uint64_t of) {
    EXPECT_GE(done, last);
    last = done;
    total = of;
    thread = std::this_thread::get_id();
  };
  ASSERT_TRUE(transfer(extents_, makers(), options));
  EXPECT_EQ(last, 51 * kPage + 123);
  EXPECT_EQ(total, last);
  EXPECT_EQ(thread, std::this_thread::get_id());
  EXPECT_FALSE(device_.threads.contains(thread)) << "lanes belong to threads of their own";
}

TEST_F(CoverTransfer, CancelledTransferEndsWithoutLanes) {
  const std::atomic<bool> cancel = true;
  const auto bytes =
      transfer(extents_, makers(), {.threads = 2, .chunk_bytes = kPage, .cancel = &cancel});
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(device_.lanes_alive, 0);
}

TEST_F(CoverTransfer, CanBeCancelledOnTheWay) {
  std::atomic<bool> cancel = false;
  std::atomic<int> reads = 0;
  Makers counting = makers();
  struct CountingSource final : ByteSource {
    Result<void> read(std::uint64_t, std::span<std::byte>) override {
      if (++*reads == 5) cancel->store(true);
      return {};
    }
    std::atomic<int>* reads = nullptr;
    std::atomic<bool>* cancel = nullptr;
  };
  counting.source = [&]() -> Result<std::unique_ptr<ByteSource>> {
    auto source = std::make_unique<CountingSource>();
    source->reads = &reads;
    source->cancel = &cancel;
    return source;
  };
  const auto bytes =
      transfer(extents_, counting, {.threads = 1, .chunk_bytes = kPage, .cancel = &cancel});
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(reads, 5) << "and not one more";
  EXPECT_EQ(device_.lanes_alive, 0);
}

TEST_F(CoverTransfer, FailsWithTheFilesError) {
  file_.resize(95 * kPage);
  const auto bytes = transfer(extents_, makers(), {.threads = 4, .chunk_bytes = kPage});
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code, ErrorCode::kIo);
  EXPECT_EQ(device_.lanes_alive, 0);
}

TEST_F(CoverTransfer, FailsWithTheDevicesError) {
  device_.fail_at_place = 8 * kPage;
  const auto bytes = transfer(extents_, makers(), {.threads = 2, .chunk_bytes = 4 * kPage});
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().message, "the device is gone");
  EXPECT_EQ(device_.lanes_alive, 0);
}

TEST_F(CoverTransfer, FailsWhereALaneCannotBeMade) {
  Makers broken = makers();
  broken.lane = [](unsigned thread) -> Result<std::unique_ptr<CopyLane>> {
    return fail(ErrorCode::kResourceExhausted, "no lane " + std::to_string(thread));
  };
  const auto bytes = transfer(extents_, broken, {.threads = 2, .chunk_bytes = kPage});
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code, ErrorCode::kResourceExhausted);
}

}  // namespace
}  // namespace ds4::cuda
