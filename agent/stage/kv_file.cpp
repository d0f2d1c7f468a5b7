#include "agent/stage/kv_file.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "agent/wire/byte_cursor.h"

namespace ds4::agent {

/// XXH3-64 of bytes that come piece by piece.
class KvHash {
 public:
  KvHash() { XXH3_64bits_reset(state_.get()); }
  void add(std::span<const std::byte> bytes) {
    XXH3_64bits_update(state_.get(), bytes.data(), bytes.size());
  }
  std::uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_{XXH3_createState()};
};

namespace {

constexpr std::uint64_t kMagic = 0x000a0d766b347364;  // "ds4kv\r\n\0"
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kHashedBytes = kKvHeaderBytes - sizeof(std::uint64_t);
constexpr std::size_t kStepBytes = 4U << 20;

Result<void> write_all(int file, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(file, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("write a session's cache");
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

}  // namespace

std::uint64_t kv_maker(std::string_view description) {
  return XXH3_64bits(description.data(), description.size());
}

std::uint64_t bytes_of(const KvPieces& pieces) {
  std::uint64_t bytes = 0;
  for (const auto piece : pieces) bytes += piece.size();
  return bytes;
}

std::string encode(const KvFileHeader& header) {
  wire::ByteWriter out(kKvHeaderBytes);
  out.u64(kMagic);
  out.u32(kVersion);
  out.u32(0);
  out.u64(header.place.session);
  out.u64(header.place.prefix_hash);
  out.u32(header.place.context);
  out.u32(header.place.position);
  out.u64(header.maker);
  out.u64(header.payload_bytes);
  out.u64(header.payload_hash);
  std::string bytes = out.take();
  wire::ByteWriter end(sizeof(std::uint64_t));
  end.u64(XXH3_64bits(bytes.data(), bytes.size()));
  return bytes + end.take();
}

Result<KvFileHeader> decode_kv_header(std::span<const std::byte> bytes) {
  wire::ByteReader in(bytes, "saved cache");
  if (in.u64("magic") != kMagic) in.reject("magic", "is another");
  const std::uint32_t version = in.u32("version");
  in.zero_u32("reserved");
  KvFileHeader header;
  header.place.session = in.u64("session");
  header.place.prefix_hash = in.u64("prefix_hash");
  header.place.context = in.u32("context");
  header.place.position = in.u32("position");
  header.maker = in.u64("maker");
  header.payload_bytes = in.u64("payload_bytes");
  header.payload_hash = in.u64("payload_hash");
  const std::uint64_t hash = in.u64("header_hash");
  DS4_TRY(in.finish());
  if (version != kVersion) {
    return fail(ErrorCode::kUnsupported, fmt::format("a saved cache of version {}", version));
  }
  if (hash != XXH3_64bits(bytes.data(), kHashedBytes)) {
    return fail(ErrorCode::kCorrupt, "the header of a saved cache is damaged");
  }
  if (header.place.position == 0 || header.place.position > header.place.context) {
    return fail(ErrorCode::kCorrupt, fmt::format("a saved cache of {} positions in a context of {}",
                                                 header.place.position, header.place.context));
  }
  return header;
}

// ---- reading ---------------------------------------------------------------------------------

KvFileReader::KvFileReader(UniqueFd file, std::string name)
    : file_(std::move(file)), name_(std::move(name)), hash_(std::make_unique<KvHash>()) {}

KvFileReader::KvFileReader(KvFileReader&&) noexcept = default;
KvFileReader& KvFileReader::operator=(KvFileReader&&) noexcept = default;
KvFileReader::~KvFileReader() = default;

Result<KvFileReader> KvFileReader::open(UniqueFd file, std::string name) {
  KvFileReader reader(std::move(file), std::move(name));
  std::byte bytes[kKvHeaderBytes];
  DS4_TRY(reader.read_exactly(bytes));
  auto header = decode_kv_header(bytes);
  if (!header) return fail(std::move(header).error(), reader.name_);
  reader.header_ = *header;
  reader.left_ = header->payload_bytes;
  struct stat facts {};
  if (::fstat(reader.file_.get(), &facts) != 0) return fail_errno("look at " + reader.name_);
  const auto size = static_cast<std::uint64_t>(facts.st_size);
  if (size < kKvHeaderBytes || size - kKvHeaderBytes != header->payload_bytes) {
    return fail(ErrorCode::kCorrupt,
                fmt::format("{} has {} bytes where its header says {} + {}", reader.name_, size,
                            kKvHeaderBytes, header->payload_bytes));
  }
  return reader;
}

Result<void> KvFileReader::read_exactly(std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t n = ::read(file_.get(), to.data(), to.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read " + name_);
    if (n == 0) return fail(ErrorCode::kCorrupt, name_ + " ends early");
    to = to.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

Result<void> KvFileReader::read(std::span<std::byte> to) {
  if (to.size() > left_) {
    return fail(ErrorCode::kCorrupt, name_ + " holds less than such a session needs");
  }
  DS4_TRY(read_exactly(to));
  left_ -= to.size();
  hash_->add(to);
  return {};
}

Result<void> KvFileReader::finish() const {
  if (left_ != 0) {
    return fail(ErrorCode::kCorrupt, name_ + " holds more than such a session needs");
  }
  if (hash_->value() != header_.payload_hash) {
    return fail(ErrorCode::kCorrupt, name_ + " is damaged");
  }
  return {};
}

// ---- writing ---------------------------------------------------------------------------------

namespace {

/// Every byte in turn, a step at a time, for as long as somebody wants it.
template <typename Take>
Result<void> in_steps(const KvPieces& pieces, const std::function<bool()>& go_on, Take&& take) {
  for (std::span<const std::byte> piece : pieces) {
    while (!piece.empty()) {
      if (!go_on()) return fail(ErrorCode::kCancelled, "nobody wants this cache any more");
      const auto step = piece.first(std::min(piece.size(), kStepBytes));
      DS4_TRY(take(step));
      piece = piece.subspan(step.size());
    }
  }
  return {};
}

}  // namespace

Result<void> write_kv_file(int file, const KvPlace& place, std::uint64_t maker,
                           const KvPieces& pieces, const std::function<bool()>& go_on) {
  KvHash hash;
  DS4_TRY(in_steps(pieces, go_on, [&](std::span<const std::byte> step) -> Result<void> {
    hash.add(step);
    return {};
  }));
  const std::string header = encode(KvFileHeader{place, maker, bytes_of(pieces), hash.value()});
  DS4_TRY(write_all(file, std::as_bytes(std::span(header))));
  return in_steps(pieces, go_on,
                  [&](std::span<const std::byte> step) { return write_all(file, step); });
}

}  // namespace ds4::agent
