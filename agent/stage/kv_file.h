#pragma once
// One session's cache as a file: a header that says whose it is and for whom, then its bytes as
// they lay in memory.
//
// Little-endian: magic "ds4kv\r\n\0" | version u32 | 0 u32 | session u64 | prefix_hash u64
// | context u32 | position u32 | maker u64 | payload_bytes u64 | payload_hash u64 | header_hash
// u64. Hashes are XXH3-64; the header's covers everything before it. A file is believed only if all
// of it is right: nobody but this agent should write here, but disks fail, and files are bytes from
// outside.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/base/unique_fd.h"

namespace ds4::agent {

/// What a cache holds.
struct KvPlace {
  std::uint64_t session = 0;
  std::uint64_t prefix_hash = 0;  // of the tokens before `position` (wire::extend_hash)
  std::uint32_t context = 0;      // positions it is made for
  std::uint32_t position = 0;     // positions held: 1 to context
  bool operator==(const KvPlace&) const = default;
};

struct KvFileHeader {
  KvPlace place;
  std::uint64_t maker = 0;  // model, layers and device that the bytes belong to (kv_maker)
  std::uint64_t payload_bytes = 0;
  std::uint64_t payload_hash = 0;
  bool operator==(const KvFileHeader&) const = default;
};

inline constexpr std::size_t kKvHeaderBytes = 72;

/// One number for everything that two caches must have in common to be exchanged.
std::uint64_t kv_maker(std::string_view description);

std::string encode(const KvFileHeader& header);
/// Pure. Errors: kCorrupt, kUnsupported for another version.
Result<KvFileHeader> decode_kv_header(std::span<const std::byte> bytes);

using KvPieces = std::vector<std::span<const std::byte>>;

std::uint64_t bytes_of(const KvPieces& pieces);

class KvHash;

/// Reads a file from its beginning. Errors name the file.
class KvFileReader {
 public:
  /// `name` is for messages. kCorrupt also where the file's size is not what its header says.
  static Result<KvFileReader> open(UniqueFd file, std::string name);
  KvFileReader(KvFileReader&&) noexcept;
  KvFileReader& operator=(KvFileReader&&) noexcept;
  ~KvFileReader();

  const KvFileHeader& header() const { return header_; }
  /// The next bytes of the payload.
  Result<void> read(std::span<std::byte> to);
  /// After the last read: kCorrupt if bytes are left or are not what was written.
  Result<void> finish() const;

 private:
  KvFileReader(UniqueFd file, std::string name);
  Result<void> read_exactly(std::span<std::byte> to);

  UniqueFd file_;
  std::string name_;
  KvFileHeader header_;
  std::uint64_t left_ = 0;  // of the payload
  std::unique_ptr<KvHash> hash_;
};

/// The whole file, from the descriptor's place on. The bytes are read twice: the header, which
/// comes first, has their hash. `go_on` is asked every few MiB of both: false ends with kCancelled.
Result<void> write_kv_file(int file, const KvPlace& place, std::uint64_t maker,
                           const KvPieces& pieces, const std::function<bool()>& go_on);

}  // namespace ds4::agent
