#include "engine/residency/byte_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "engine/base/unique_fd.h"
#include "engine/gguf/model_file.h"
#include "engine/residency/span_map.h"

namespace ds4 {
namespace {

/// A second descriptor of the same file: flags and advice are a descriptor's own.
UniqueFd reopen(int fd, int flags) {
  const std::string path = fmt::format("/proc/self/fd/{}", fd);
  return UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags));
}

class FileSource final : public ByteSource {
 public:
  FileSource(UniqueFd direct, UniqueFd buffered)
      : direct_(std::move(direct)), buffered_(std::move(buffered)) {}

  Result<void> read(std::uint64_t offset, std::span<std::byte> out) override {
    // O_DIRECT counts in blocks; the file's last page may be asked for with less, which is given.
    const std::uint64_t page = system_page_bytes();
    std::uint64_t done = 0;
    while (direct_ && done < out.size() && done % page == 0) {
      const std::uint64_t left = (out.size() - done + page - 1) & ~(page - 1);
      const ssize_t n =
          ::pread(direct_.get(), out.data() + done, left, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EINVAL) direct_.reset();  // not here after all
      if (n < 0 && direct_) return failed(offset + done);
      if (n <= 0) break;
      done += static_cast<std::uint64_t>(n);
    }
    if (done >= out.size()) return {};
    return read_buffered(offset + done, out.subspan(done));
  }

 private:
  static tl::unexpected<Error> failed(std::uint64_t offset) {
    return fail_errno(fmt::format("read at offset {}", offset));
  }

  Result<void> read_buffered(std::uint64_t offset, std::span<std::byte> out) const {
    const auto start = static_cast<off_t>(offset);
    const auto bytes = static_cast<off_t>(out.size());
    ::posix_fadvise(buffered_.get(), start, bytes, POSIX_FADV_WILLNEED);
    while (!out.empty()) {
      const ssize_t n =
          ::pread(buffered_.get(), out.data(), out.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return failed(offset);
      if (n == 0) return fail(ErrorCode::kIo, fmt::format("the file shrank to {} bytes", offset));
      offset += static_cast<std::uint64_t>(n);
      out = out.subspan(static_cast<std::size_t>(n));
    }
    ::posix_fadvise(buffered_.get(), start, bytes, POSIX_FADV_DONTNEED);
    return {};
  }

  UniqueFd direct_;
  const UniqueFd buffered_;
};

}  // namespace

Result<std::unique_ptr<ByteSource>> make_file_source(const ModelFile& model) {
  UniqueFd buffered = reopen(model.fd(), 0);
  if (!buffered) return fail_errno(fmt::format("open {} again", model.path()));
  ::posix_fadvise(buffered.get(), 0, 0, POSIX_FADV_RANDOM);
  return std::make_unique<FileSource>(reopen(model.fd(), O_DIRECT), std::move(buffered));
}

}  // namespace ds4
