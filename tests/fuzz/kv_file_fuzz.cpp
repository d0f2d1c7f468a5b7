// Any bytes are a session's saved cache or an error; what is taken for one encodes to the same
// bytes again.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "agent/stage/kv_file.h"

using namespace ds4;
using namespace ds4::agent;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

UniqueFd file_of(std::span<const std::byte> bytes) {
  UniqueFd file(::memfd_create("saved", MFD_CLOEXEC));
  require(file && ::pwrite(file.get(), bytes.data(), bytes.size(), 0) ==
                      static_cast<ssize_t>(bytes.size()));
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  auto reader = KvFileReader::open(file_of(bytes), "saved");
  if (!reader) return 0;
  const KvFileHeader header = reader->header();
  const std::string head = encode(header);
  require(std::ranges::equal(std::as_bytes(std::span(head)), bytes.first(kKvHeaderBytes)));
  require(header.payload_bytes == size - kKvHeaderBytes);
  std::vector<std::byte> payload(header.payload_bytes);
  const std::size_t half = payload.size() / 2;
  require(reader->read(std::span(payload).first(half)).has_value());
  require(reader->read(std::span(payload).subspan(half)).has_value());
  require(std::ranges::equal(payload, bytes.subspan(kKvHeaderBytes)));
  const bool whole = reader->finish().has_value();
  std::byte one;
  require(!reader->read({&one, 1}));
  if (!whole) return 0;
  const UniqueFd again(::memfd_create("again", MFD_CLOEXEC));
  const KvPieces pieces = {std::span(payload).first(half), std::span(payload).subspan(half)};
  require(write_kv_file(again.get(), header.place, header.maker, pieces, [] {
            return true;
          }).has_value());
  std::vector<std::byte> written(size);
  require(::pread(again.get(), written.data(), size, 0) == static_cast<ssize_t>(size));
  require(std::ranges::equal(written, bytes));
  return 0;
}
