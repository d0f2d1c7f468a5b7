#include "engine/gguf/model_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/gguf/split_name.h"

namespace ds4 {
namespace {

constexpr std::uint64_t kFirstHeaderBytes = 1u << 20;
// Twenty times the largest known; a hostile length must not make the agent read for long.
constexpr std::uint64_t kMaxHeaderBytes = 1u << 27;
constexpr std::uint64_t kSampleBytes = 4096;
constexpr std::size_t kMaxSamples = 512;  // 2 MiB, whatever the model's size

/// Appends file bytes [bytes.size(), target) to `bytes`.
Result<void> read_up_to(int fd, std::vector<std::byte>& bytes, std::uint64_t target) {
  std::uint64_t done = bytes.size();
  bytes.resize(target);
  while (done < target) {
    const ssize_t n = ::pread(fd, bytes.data() + done, target - done, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(fmt::format("read at offset {}", done));
    if (n == 0) return fail(ErrorCode::kIo, fmt::format("the file shrank to {} bytes", done));
    done += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<void> read_at(int fd, std::uint64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(fmt::format("read at offset {}", offset));
    if (n == 0) return fail(ErrorCode::kIo, fmt::format("the file shrank to {} bytes", offset));
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<std::uint64_t> regular_file_bytes(int fd) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return fail_errno("fstat");
  if (S_ISDIR(info.st_mode)) {
    return fail(ErrorCode::kInvalidArgument, "a directory, not a GGUF model file");
  }
  if (!S_ISREG(info.st_mode)) {
    return fail(ErrorCode::kInvalidArgument, "not a regular file, so it cannot be a model");
  }
  return static_cast<std::uint64_t>(info.st_size);
}

struct Header {
  std::vector<std::byte> bytes;
  GgufFile gguf;  // views into bytes
};

/// Reads more and more of the file until its header parses or cannot.
Result<Header> read_header(int fd, std::uint64_t file_bytes) {
  Header header;
  std::uint64_t target = kFirstHeaderBytes;
  while (true) {
    DS4_TRY(read_up_to(fd, header.bytes, std::min(target, file_bytes)));
    auto parsed = GgufFile::parse(header.bytes, file_bytes);
    if (parsed) {
      header.gguf = std::move(*parsed);
      return header;
    }
    // kOutOfRange says only that we have read too little; a file that ends too early is kCorrupt.
    if (parsed.error().code != ErrorCode::kOutOfRange) return tl::unexpected(parsed.error());
    if (target >= kMaxHeaderBytes) {
      return fail(ErrorCode::kUnsupported,
                  fmt::format("its header is larger than {} MiB", kMaxHeaderBytes >> 20));
    }
    target *= 2;
  }
}

struct HashDeleter {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

/// At most kMaxSamples tensors, spread evenly over the file, in its order.
std::vector<const TensorInfo*> sampled_tensors(const GgufFile& gguf) {
  std::vector<const TensorInfo*> all;
  all.reserve(gguf.tensors().size());
  for (const TensorInfo& tensor : gguf.tensors()) all.push_back(&tensor);
  std::ranges::sort(all, {}, &TensorInfo::offset);
  const std::size_t count = std::min(all.size(), kMaxSamples);
  std::vector<const TensorInfo*> sampled;
  for (std::size_t i = 0; i < count; ++i) sampled.push_back(all[i * all.size() / count]);
  return sampled;
}

Result<std::string> fingerprint_of(int fd, const Header& header) {
  const std::unique_ptr<XXH3_state_t, HashDeleter> state(XXH3_createState());
  if (!state) return fail(ErrorCode::kResourceExhausted, "no memory for the fingerprint");
  XXH3_128bits_reset(state.get());
  const std::uint64_t file_bytes = header.gguf.file_bytes();
  XXH3_128bits_update(state.get(), &file_bytes, sizeof file_bytes);
  XXH3_128bits_update(state.get(), header.bytes.data(), header.gguf.table_end());
  std::vector<std::byte> sample(kSampleBytes);
  for (const TensorInfo* tensor : sampled_tensors(header.gguf)) {
    const auto part = std::span(sample).first(std::min(kSampleBytes, tensor->bytes));
    DS4_TRY(read_at(fd, tensor->offset, part));
    XXH3_128bits_update(state.get(), part.data(), part.size());
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

FileIdentity identity_of(const struct stat& info) {
  return {info.st_dev, info.st_ino, static_cast<std::uint64_t>(info.st_size),
          std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec};
}

}  // namespace

Result<FileIdentity> FileIdentity::of(int fd) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return fail_errno("fstat");
  return identity_of(info);
}

Result<FileIdentity> FileIdentity::of(const std::string& path) {
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0) return fail_errno(path);
  return identity_of(info);
}

Result<std::shared_ptr<const ModelFile>> ModelFile::open(const std::string& path) {
  std::shared_ptr<ModelFile> model(new ModelFile);
  model->path_ = path;
  // O_NONBLOCK so that a FIFO in the place of a model is refused instead of waited for.
  model->fd_.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!model->fd_) return fail_errno(path);
  auto bytes = regular_file_bytes(model->fd()).and_then([&](std::uint64_t file_bytes) {
    return refuse_split_name(path).map([&] { return file_bytes; });
  });
  if (!bytes) return fail(std::move(bytes).error(), path);
  DS4_ASSIGN(model->identity_, FileIdentity::of(model->fd()));
  auto header = read_header(model->fd(), *bytes);
  if (!header) return fail(std::move(header).error(), path);
  auto fingerprint = fingerprint_of(model->fd(), *header);
  if (!fingerprint) return fail(std::move(fingerprint).error(), path);
  model->fingerprint_ = std::move(*fingerprint);
  model->header_ = std::move(header->bytes);  // moves the buffer, so the views stay valid
  model->gguf_ = std::move(header->gguf);
  return model;
}

std::vector<std::byte> ModelFile::metadata_image() const {
  std::vector<std::byte> image(header_.begin(),
                               header_.begin() + static_cast<std::ptrdiff_t>(gguf_.metadata_end()));
  constexpr std::size_t kTensorCountOffset = 8;  // behind magic and version
  std::memset(image.data() + kTensorCountOffset, 0, sizeof(std::uint64_t));
  return image;
}

}  // namespace ds4
