#include "tests/tools/synth/writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <span>
#include <thread>

#include "engine/base/unique_fd.h"
#include "tests/tools/synth/fill.h"

namespace ds4::synth {
namespace {

Result<void> write_at(int fd, std::span<const std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(fmt::format("write at offset {}", offset));
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

struct Chunk {
  const Tensor* tensor = nullptr;
  std::uint64_t begin = 0;
  std::uint64_t bytes = 0;
};

std::vector<Chunk> chunks_of(const Plan& plan, const LayerRange& range) {
  std::vector<Chunk> chunks;
  for (const Tensor& tensor : plan.tensors) {
    if (!range.owns(tensor.name)) continue;
    const std::uint64_t step = chunk_bytes(tensor.type);
    for (std::uint64_t begin = 0; begin < tensor.bytes; begin += step) {
      chunks.push_back({&tensor, begin, std::min(step, tensor.bytes - begin)});
    }
  }
  return chunks;
}

/// Threads take chunks in file order; the first error stops all of them.
class Filler {
 public:
  Filler(const Plan& plan, int fd, std::vector<Chunk> chunks)
      : plan_(plan), fd_(fd), chunks_(std::move(chunks)) {}

  Result<void> run(unsigned threads) {
    std::vector<std::thread> crew;
    for (unsigned i = 1; i < threads; ++i) crew.emplace_back([this] { work(); });
    work();
    for (std::thread& thread : crew) thread.join();
    return result_;
  }

 private:
  void work() {
    std::vector<std::byte> buffer;
    for (auto i = next_.fetch_add(1); i < chunks_.size(); i = next_.fetch_add(1)) {
      const Chunk& chunk = chunks_[i];
      buffer.resize(chunk.bytes);
      fill(plan_, *chunk.tensor, chunk.begin, buffer);
      if (auto ok = write_at(fd_, buffer, chunk.tensor->offset + chunk.begin); !ok) {
        const std::lock_guard lock(mutex_);
        if (result_) result_ = fail(std::move(ok).error(), chunk.tensor->name);
        next_ = chunks_.size();
      }
    }
  }

  const Plan& plan_;
  const int fd_;
  const std::vector<Chunk> chunks_;
  std::atomic<std::size_t> next_ = 0;
  std::mutex mutex_;
  Result<void> result_;  // guarded by mutex_ until the threads have joined
};

Result<std::uint64_t> write_contents(const Plan& plan, int fd,
                                     const std::optional<LayerRange>& populate, unsigned threads) {
  if (::ftruncate(fd, static_cast<off_t>(plan.file_bytes)) != 0) {
    return fail_errno(fmt::format("make it {} bytes long", plan.file_bytes));
  }
  DS4_TRY(write_at(fd, plan.header, 0));
  if (!populate) return 0;
  const std::vector<Chunk> chunks = chunks_of(plan, *populate);
  std::uint64_t total = 0;
  for (const Chunk& chunk : chunks) total += chunk.bytes;
  DS4_TRY(Filler(plan, fd, chunks).run(threads));
  return total;
}

}  // namespace

Result<std::uint64_t> write_file(const Plan& plan, const std::string& path,
                                 const std::optional<LayerRange>& populate, unsigned threads) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd) return fail_errno(path);
  auto written = write_contents(plan, fd.get(), populate, threads);
  if (written) return written;
  ::unlink(path.c_str());
  return fail(std::move(written).error(), path);
}

}  // namespace ds4::synth
