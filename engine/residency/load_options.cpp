#include "engine/residency/load_options.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/residency/span_map.h"

namespace ds4 {
namespace {

std::uint64_t whole_pages(std::uint64_t bytes) {
  constexpr std::uint64_t kMaxChunkBytes = 1u << 30;
  const std::uint64_t page = system_page_bytes();
  return std::clamp(bytes & ~(page - 1), page, kMaxChunkBytes);
}

}  // namespace

LoadRun::LoadRun(const LoadOptions& options, std::uint64_t total_bytes, std::uint64_t kept_bytes)
    : options_(options),
      total_bytes_(total_bytes),
      chunk_bytes_(whole_pages(options.chunk_bytes)),
      done_bytes_(kept_bytes) {
  figures_.kept_bytes = kept_bytes;
  if (kept_bytes > 0) report();
}

Result<void> LoadRun::go_on() const {
  if (options_.cancel == nullptr || !options_.cancel->load(std::memory_order_relaxed)) return {};
  return fail(ErrorCode::kCancelled,
              fmt::format("loading was cancelled after {} of {} bytes", done_bytes_, total_bytes_));
}

void LoadRun::count_read(std::uint64_t bytes) {
  figures_.read_bytes += bytes;
  done_bytes_ += bytes;
  report();
}

void LoadRun::count_adopted(std::uint64_t bytes) {
  figures_.adopted_bytes += bytes;
  done_bytes_ += bytes;
  report();
}

void LoadRun::report() {
  if (options_.progress) options_.progress(done_bytes_, total_bytes_);
}

}  // namespace ds4
