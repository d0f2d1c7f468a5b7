#include "engine/residency/memfd_part.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/residency/memfd_store.h"
#include "engine/residency/span_map.h"
#include "engine/residency/weight_equality.h"

// Younger than the C library's headers on some systems we build on.
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace ds4 {
namespace {

constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

/// Stands in the page behind the image.
struct Mark {
  char magic[8] = {'d', 's', '4', 'p', 'a', 'r', 't', '2'};
  char fingerprint[40] = {};
  char part[16] = {};
  std::uint64_t file_bytes = 0;
  std::uint64_t cover_bytes = 0;
  std::uint64_t cover_hash = 0;
  std::uint64_t ends_hash = 0;  // of its tensors, as the image has them
  // The file that was copied.
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::int64_t modified_ns = 0;

  void name(const FileIdentity& file) {
    device = file.device;
    inode = file.inode;
    modified_ns = file.modified_ns;
  }
  bool operator==(const Mark&) const = default;
};

std::uint64_t mark_offset(const ModelFile& model) {
  const std::uint64_t page = system_page_bytes();
  return (model.file_bytes() + page - 1) & ~(page - 1);
}

std::uint64_t image_bytes(const ModelFile& model) {
  return mark_offset(model) + system_page_bytes();
}

Result<Mark> make_mark(const ModelFile& model, const PartPlan& plan, int fd) {
  Mark mark;
  std::strncpy(mark.fingerprint, model.fingerprint().c_str(), sizeof(mark.fingerprint) - 1);
  std::strncpy(mark.part, plan.name.c_str(), sizeof(mark.part) - 1);
  mark.file_bytes = model.file_bytes();
  mark.cover_bytes = plan.cover.cover_bytes();
  const auto intervals = plan.cover.intervals();
  mark.cover_hash = XXH3_64bits(intervals.data(), intervals.size_bytes());
  mark.name(model.identity());
  DS4_ASSIGN(mark.ends_hash, hash_tensor_ends(plan.tensors, fd));
  return mark;
}

/// A writable view of some of the image's pages, for as long as they are filled.
class Window {
 public:
  static Result<Window> open(int fd, std::uint64_t offset, std::uint64_t bytes) {
    // Aligned as the offset is, or large pages would not fit.
    const std::uint64_t lead = offset & (kHugePageBytes - 1);
    DS4_ASSIGN(SpanMap room, SpanMap::reserve(lead + bytes));
    if (::mmap(room.base() + lead, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
               static_cast<off_t>(offset)) == MAP_FAILED) {
      return fail_errno(fmt::format("map {} bytes of memory for the copy", bytes));
    }
    return Window(std::move(room), lead, bytes);
  }
  std::span<std::byte> bytes() const { return {room_.base() + lead_, bytes_}; }
  /// The whole large pages in it.
  std::span<std::byte> huge() const {
    const std::uint64_t begin = (lead_ + kHugePageBytes - 1) & ~(kHugePageBytes - 1);
    const std::uint64_t end = (lead_ + bytes_) & ~(kHugePageBytes - 1);
    return begin < end ? std::span(room_.base() + begin, end - begin) : std::span<std::byte>();
  }

 private:
  Window(SpanMap room, std::uint64_t lead, std::uint64_t bytes)
      : room_(std::move(room)), lead_(lead), bytes_(bytes) {}
  SpanMap room_;
  std::uint64_t lead_;
  std::uint64_t bytes_;
};

/// Copies [offset, offset + bytes) with large pages wherever one fits in whole: never beyond the
/// interval, so that the image holds its cover and nothing else.
Result<void> copy_chunk(int fd, std::uint64_t offset, std::uint64_t bytes, ByteSource& source,
                        bool huge, LoadRun& run) {
  DS4_ASSIGN(const Window window, Window::open(fd, offset, bytes));
  DS4_TRY(source.read(offset, window.bytes()));
  const auto whole = window.huge();
  if (!huge || whole.empty()) return {};
  // Collapsing what was just written asks no administrator's permission, unlike MADV_HUGEPAGE on
  // shared memory.
  if (::madvise(whole.data(), whole.size(), MADV_COLLAPSE) != 0) {
    run.store_note = fmt::format("no large pages: MADV_COLLAPSE: {}", std::strerror(errno));
  }
  return {};
}

Result<void> copy_interval(int fd, const Interval& interval, std::span<const Interval> missing,
                           ByteSource& source, bool huge, LoadRun& run) {
  std::uint64_t at = interval.begin;
  while (at < interval.end) {
    DS4_TRY(run.go_on());
    // Chunks end at multiples of their size, so that large pages are not cut.
    const std::uint64_t end =
        std::min(interval.end, (at / run.chunk_bytes() + 1) * run.chunk_bytes());
    DS4_TRY(copy_chunk(fd, at, end - at, source, huge, run));
    const Interval chunk{at, end};
    run.count_read(total_bytes(intersection({&chunk, 1}, missing)));
    at = end;
  }
  return {};
}

Result<void> seal(const ModelFile& model, const PartPlan& plan, int fd) {
  DS4_ASSIGN(const Mark mark, make_mark(model, plan, fd));
  if (::pwrite(fd, &mark, sizeof(mark), static_cast<off_t>(mark_offset(model))) !=
      static_cast<ssize_t>(sizeof(mark))) {
    return fail_errno("mark the copy as whole");
  }
  if (::fcntl(fd, F_ADD_SEALS, kSeals) != 0) return fail_errno("seal the copy");
  return {};
}

Result<PartPlan> plan_part(const ModelFile& model, std::string name, const LayerRange& range) {
  PartPlan plan;
  plan.name = std::move(name);
  DS4_ASSIGN(plan.cover, SpanCover::of(model.gguf(), range, system_page_bytes()));
  for (const TensorInfo& tensor : model.gguf().tensors()) {
    if (range.owns(tensor.name)) plan.tensors.push_back(&tensor);
  }
  return plan;
}

}  // namespace

Result<std::vector<PartPlan>> plan_parts(const ModelFile& model, const LayerRange& range) {
  std::vector<PartPlan> parts;
  for (std::uint32_t layer = range.first; layer <= range.last; ++layer) {
    DS4_ASSIGN(parts.emplace_back(),
               plan_part(model, fmt::format("L{}", layer), LayerRange{layer, layer, false}));
  }
  if (range.output) {
    constexpr LayerRange kHeadAlone{1, 0, true};  // no layer at all
    DS4_ASSIGN(parts.emplace_back(), plan_part(model, "output", kHeadAlone));
  }
  return parts;
}

Result<UniqueFd> copy_part(const ModelFile& model, const PartPlan& plan,
                           std::span<const Interval> missing, ByteSource& source, bool huge,
                           LoadRun& run) {
  const std::string name = memfd_part_name(model.fingerprint(), plan.name);
  UniqueFd fd(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return fail_errno("memfd_create");
  if (::ftruncate(fd.get(), static_cast<off_t>(image_bytes(model))) != 0) {
    return fail_errno(fmt::format("a memfd of {} bytes", image_bytes(model)));
  }
  for (const Interval& interval : plan.cover.intervals()) {
    auto copied = copy_interval(fd.get(), interval, missing, source, huge, run);
    if (!copied) return fail(std::move(copied).error(), fmt::format("copy part {}", plan.name));
  }
  DS4_TRY(seal(model, plan, fd.get()));
  return fd;
}

Result<void> check_part(const ModelFile& model, const PartPlan& plan, int fd) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return fail_errno("fstat");
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) {
    return fail(ErrorCode::kCorrupt, "it is not sealed: its copy was cut short");
  }
  if (static_cast<std::uint64_t>(info.st_size) != image_bytes(model)) {
    return fail(ErrorCode::kMismatch, "it has another size");
  }
  Mark found;
  if (::pread(fd, &found, sizeof(found), static_cast<off_t>(mark_offset(model))) !=
      static_cast<ssize_t>(sizeof(found))) {
    return fail(ErrorCode::kCorrupt, "its mark cannot be read");
  }
  DS4_ASSIGN(const Mark wanted, make_mark(model, plan, fd));
  if (found == wanted) return {};
  found.name(model.identity());
  if (found != wanted) return fail(ErrorCode::kMismatch, "its mark is not this model's");
  // It was copied from another file, whose header was the same: are the weights?
  DS4_ASSIGN(const std::uint64_t of_file, hash_tensor_ends(plan.tensors, model.fd()));
  if (of_file == found.ends_hash) return {};
  return fail(ErrorCode::kMismatch, "the file has other weights now");
}

}  // namespace ds4
