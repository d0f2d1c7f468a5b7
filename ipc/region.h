#pragma once
// Where the shared bytes live: sealed memfds, mapped by Boost.Interprocess.
//
// The agent creates a region and seals it against resizing, so that no client can truncate it under
// the agent's feet (which would be SIGBUS); all its pages are allocated at once, so that a full
// memory file system is an error at the handshake and not a signal later. Boost's exceptions stop
// here.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "engine/base/result.h"
#include "engine/base/unique_fd.h"
#include "ipc/layout.h"
#include "ipc/ring.h"

namespace ds4::ipc {

/// Owner of a mapping of a whole file descriptor's [0, bytes). Move-only; unmaps on destruction.
/// The descriptor may be closed once mapped.
class Mapping {
 public:
  enum class Access { kReadOnly, kReadWrite };

  static Result<Mapping> map(int fd, std::uint64_t bytes, Access access);

  Mapping();
  Mapping(Mapping&&) noexcept;
  Mapping& operator=(Mapping&&) noexcept;
  ~Mapping();

  std::byte* data() const;
  std::size_t size() const;
  std::span<const std::byte> bytes() const { return {data(), size()}; }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The counts a region is made for; each is a power of two within the bounds below.
struct RegionShape {
  std::uint32_t submission_entries = 64;
  std::uint32_t completion_entries = 1024;
  std::uint32_t arena_tokens = 16384;

  std::uint32_t submission_offset() const { return sizeof(RegionHeader); }
  std::uint32_t completion_offset() const;
  std::uint32_t arena_offset() const;
  std::uint64_t region_bytes() const;  // whole pages of 4 KiB
  bool operator==(const RegionShape&) const = default;
};

inline constexpr std::uint32_t kMinRingEntries = 8;
inline constexpr std::uint32_t kMaxRingEntries = 1U << 16;
inline constexpr std::uint32_t kMinArenaTokens = 1024;
inline constexpr std::uint32_t kMaxArenaTokens = 1U << 20;

/// A client's wishes made fit: 0 becomes the default, everything is rounded up to a power of two
/// and brought into [min, min(max, most)].
RegionShape fit_shape(const Hello& wishes, const RegionShape& most);

/// A mapped region. Both ends use this class; what differs is who made it.
class Region {
 public:
  struct Offsets {
    std::uint32_t submissions = 0;
    std::uint32_t completions = 0;
    std::uint32_t arena = 0;
  };

  /// Agent: a new memfd of this shape, header written, allocated and sealed. `fd` is to be passed
  /// on.
  struct Created;
  static Result<Created> create(const RegionShape& shape);

  /// Client: maps and checks a region that an agent made. Errors: kCorrupt, kUnsupported.
  static Result<Region> open(int fd, std::uint64_t bytes);

  RegionHeader& header() const { return *reinterpret_cast<RegionHeader*>(mapping_.data()); }
  const RegionShape& shape() const { return shape_; }
  std::size_t bytes() const { return mapping_.size(); }
  RingMemory submissions() const;
  RingMemory completions() const;
  /// The arena: shape().arena_tokens ids, to be accessed as atomics.
  std::int32_t* arena() const;

 private:
  Mapping mapping_;
  RegionShape shape_;
  Offsets offsets_;
};

struct Region::Created {
  Region region;
  UniqueFd fd;
};

/// A memfd that holds `content` and can never change again: sealed against writing and resizing.
Result<UniqueFd> make_sealed_memfd(const char* name, std::span<const std::byte> content);

}  // namespace ds4::ipc
