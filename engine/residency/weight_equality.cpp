#include "engine/residency/weight_equality.h"

#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <vector>

namespace ds4 {
namespace {

constexpr std::uint64_t kEndBytes = 4096;

bool unchanged(const ModelFile& model) {
  const auto now = FileIdentity::of(model.fd());
  return now && *now == model.identity();
}

Result<std::uint64_t> hash_all_ends(const ModelFile& model) {
  std::vector<const TensorInfo*> tensors;
  for (const TensorInfo& tensor : model.gguf().tensors()) tensors.push_back(&tensor);
  return hash_tensor_ends(tensors, model.fd());
}

}  // namespace

Result<std::uint64_t> hash_tensor_ends(std::span<const TensorInfo* const> tensors, int fd) {
  std::vector<std::byte> sample(kEndBytes);
  std::uint64_t hash = 0;
  for (const TensorInfo* tensor : tensors) {
    const std::uint64_t bytes = std::min(kEndBytes, tensor->bytes);
    for (const std::uint64_t offset : {tensor->offset, tensor->offset + tensor->bytes - bytes}) {
      const ssize_t n = ::pread(fd, sample.data(), bytes, static_cast<off_t>(offset));
      if (n != static_cast<ssize_t>(bytes)) {
        return fail(ErrorCode::kCorrupt, fmt::format("{} cannot be read back", tensor->name));
      }
      hash = XXH3_64bits_withSeed(sample.data(), bytes, hash);
    }
  }
  return hash;
}

bool same_weights(const ModelFile& copied, const ModelFile& now) {
  if (copied.fingerprint() != now.fingerprint() || !unchanged(copied)) return false;
  const auto before = hash_all_ends(copied);
  const auto after = hash_all_ends(now);
  return before && after && *before == *after;
}

}  // namespace ds4
