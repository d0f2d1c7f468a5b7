#include "ipc/region.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <boost/interprocess/detail/os_file_functions.hpp>
#include <boost/interprocess/exceptions.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>

#include "engine/base/checked.h"

namespace ds4::ipc {

namespace {

namespace bip = boost::interprocess;

/// What mapped_region asks of a memory mappable, around a descriptor that stays someone else's.
class MemFdView {
 public:
  explicit MemFdView(int fd) : fd_(fd) {}
  bip::mapping_handle_t get_mapping_handle() const {
    return bip::ipcdetail::mapping_handle_from_file_handle(fd_);
  }

 private:
  int fd_;
};

std::uint64_t round_up(std::uint64_t value, std::uint64_t to) {
  return (value + to - 1) / to * to;
}

std::uint32_t fit(std::uint32_t wish, std::uint32_t standard, std::uint32_t min,
                  std::uint32_t most) {
  if (wish == 0) wish = std::min(standard, most);
  return std::bit_ceil(std::clamp(wish, min, std::bit_floor(std::max(most, min))));
}

Result<UniqueFd> make_memfd(const char* name, std::uint64_t bytes) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return fail_errno("make shared memory");
  // Allocates every page now: a later SIGBUS for want of memory would take the whole agent down.
  int rc = 0;
  do rc = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes));
  while (rc == EINTR);
  if (rc != 0) {
    errno = rc;
    return fail_errno(fmt::format("allocate {} bytes of shared memory", bytes));
  }
  return fd;
}

Result<void> seal(int fd, int seals) {
  if (::fcntl(fd, F_ADD_SEALS, seals) != 0) return fail_errno("seal shared memory");
  return {};
}

RegionShape shape_of(const RegionHeader& header) {
  return {header.submission_entries, header.completion_entries, header.arena_tokens};
}

bool is_count(std::uint32_t count, std::uint32_t min, std::uint32_t max) {
  return std::has_single_bit(count) && count >= min && count <= max;
}

bool is_sane(const RegionShape& shape) {
  return is_count(shape.submission_entries, kMinRingEntries, kMaxRingEntries) &&
         is_count(shape.completion_entries, kMinRingEntries, kMaxRingEntries) &&
         is_count(shape.arena_tokens, kMinArenaTokens, kMaxArenaTokens);
}

bool lies_inside(const RegionShape& shape, const Region::Offsets& at, std::uint64_t begin,
                 std::uint64_t end) {
  const auto inside = [&](std::uint64_t offset, std::uint64_t bytes) {
    return offset >= begin && offset % kLine == 0 && fits(offset, bytes, end);
  };
  return inside(at.submissions,
                std::uint64_t{shape.submission_entries} * sizeof(SubmissionEntry)) &&
         inside(at.completions,
                std::uint64_t{shape.completion_entries} * sizeof(CompletionEntry)) &&
         inside(at.arena, std::uint64_t{shape.arena_tokens} * sizeof(std::int32_t));
}

}  // namespace

// ---- Mapping --------------------------------------------------------------------------------

struct Mapping::Impl {
  bip::mapped_region region;
};

Mapping::Mapping() = default;
Mapping::Mapping(Mapping&&) noexcept = default;
Mapping& Mapping::operator=(Mapping&&) noexcept = default;
Mapping::~Mapping() = default;

Result<Mapping> Mapping::map(int fd, std::uint64_t bytes, Access access) {
  try {
    // Private for reading: kernels before 6.7 refuse a shared mapping of a write-sealed memfd, even
    // one that only reads. Nothing is ever copied, since nothing is written.
    const auto mode = access == Access::kReadWrite ? bip::read_write : bip::read_private;
    Mapping mapping;
    mapping.impl_ = std::make_unique<Impl>();
    mapping.impl_->region = bip::mapped_region(MemFdView(fd), mode, 0, bytes);
    return mapping;
  } catch (const bip::interprocess_exception& e) {
    return fail(ErrorCode::kResourceExhausted,
                fmt::format("map {} bytes of shared memory: {}", bytes, e.what()));
  }
}

std::byte* Mapping::data() const {
  return impl_ ? static_cast<std::byte*>(impl_->region.get_address()) : nullptr;
}

std::size_t Mapping::size() const {
  return impl_ ? impl_->region.get_size() : 0;
}

// ---- Shape ----------------------------------------------------------------------------------

std::uint32_t RegionShape::completion_offset() const {
  return submission_offset() +
         submission_entries * static_cast<std::uint32_t>(sizeof(SubmissionEntry));
}

std::uint32_t RegionShape::arena_offset() const {
  return completion_offset() +
         completion_entries * static_cast<std::uint32_t>(sizeof(CompletionEntry));
}

std::uint64_t RegionShape::region_bytes() const {
  return round_up(arena_offset() + std::uint64_t{arena_tokens} * sizeof(std::int32_t), 4096);
}

RegionShape fit_shape(const Hello& wishes, const RegionShape& most) {
  const RegionShape standard;
  return {
      fit(wishes.submission_entries, standard.submission_entries, kMinRingEntries,
          std::min(most.submission_entries, kMaxRingEntries)),
      fit(wishes.completion_entries, standard.completion_entries, kMinRingEntries,
          std::min(most.completion_entries, kMaxRingEntries)),
      fit(wishes.arena_tokens, standard.arena_tokens, kMinArenaTokens,
          std::min(most.arena_tokens, kMaxArenaTokens)),
  };
}

// ---- Region ---------------------------------------------------------------------------------

Result<Region::Created> Region::create(const RegionShape& shape) {
  if (!is_sane(shape)) return fail(ErrorCode::kInvalidArgument, "no such shape of a region");
  DS4_ASSIGN(UniqueFd fd, make_memfd("ds4-client", shape.region_bytes()));
  DS4_TRY(seal(fd.get(), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
  Region region;
  DS4_ASSIGN(region.mapping_,
             Mapping::map(fd.get(), shape.region_bytes(), Mapping::Access::kReadWrite));
  region.shape_ = shape;
  region.offsets_ = {shape.submission_offset(), shape.completion_offset(), shape.arena_offset()};

  RegionHeader& header = region.header();
  header.magic = kRegionMagic;
  header.major = kMajorVersion;
  header.minor = kMinorVersion;
  header.header_bytes = sizeof(RegionHeader);
  header.region_bytes = shape.region_bytes();
  header.submission_offset = shape.submission_offset();
  header.submission_entries = shape.submission_entries;
  header.completion_offset = shape.completion_offset();
  header.completion_entries = shape.completion_entries;
  header.arena_offset = shape.arena_offset();
  header.arena_tokens = shape.arena_tokens;
  return Created{std::move(region), std::move(fd)};
}

Result<Region> Region::open(int fd, std::uint64_t bytes) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return fail_errno("look at the agent's shared memory");
  if (info.st_size < 0 || static_cast<std::uint64_t>(info.st_size) != bytes ||
      bytes < sizeof(RegionHeader))
    return fail(ErrorCode::kCorrupt,
                fmt::format("the agent announced {} bytes of shared memory and sent {}", bytes,
                            info.st_size));
  Region region;
  DS4_ASSIGN(region.mapping_, Mapping::map(fd, bytes, Mapping::Access::kReadWrite));
  const RegionHeader& header = region.header();
  if (header.magic != kRegionMagic)
    return fail(ErrorCode::kCorrupt, "the shared memory does not begin with DS4RING1");
  if (header.major != kMajorVersion)
    return fail(ErrorCode::kUnsupported,
                fmt::format("the agent's shared memory has layout {}, this library knows {}",
                            header.major, kMajorVersion));
  // Offsets are read, not computed: a later minor version may move what this one knows.
  const RegionShape shape = shape_of(header);
  const Offsets offsets = {header.submission_offset, header.completion_offset, header.arena_offset};
  if (!is_sane(shape) || header.header_bytes < sizeof(RegionHeader) ||
      header.region_bytes != bytes || !lies_inside(shape, offsets, header.header_bytes, bytes))
    return fail(ErrorCode::kCorrupt, "the header of the agent's shared memory contradicts itself");
  region.offsets_ = offsets;
  region.shape_ = shape;
  return region;
}

RingMemory Region::submissions() const {
  return {&header().submission_tail, &header().submission_head,
          reinterpret_cast<std::uint64_t*>(mapping_.data() + offsets_.submissions),
          shape_.submission_entries};
}

RingMemory Region::completions() const {
  return {&header().completion_tail, &header().completion_head,
          reinterpret_cast<std::uint64_t*>(mapping_.data() + offsets_.completions),
          shape_.completion_entries};
}

std::int32_t* Region::arena() const {
  return reinterpret_cast<std::int32_t*>(mapping_.data() + offsets_.arena);
}

Result<UniqueFd> make_sealed_memfd(const char* name, std::span<const std::byte> content) {
  DS4_ASSIGN(UniqueFd fd, make_memfd(name, content.size()));
  std::size_t written = 0;
  while (written < content.size()) {
    const ssize_t n = ::pwrite(fd.get(), content.data() + written, content.size() - written,
                               static_cast<off_t>(written));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("fill shared memory");
    written += static_cast<std::size_t>(n);
  }
  DS4_TRY(seal(fd.get(), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL));
  return fd;
}

}  // namespace ds4::ipc
