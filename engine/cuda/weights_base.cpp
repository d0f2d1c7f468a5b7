#include "engine/cuda/weights_base.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "engine/base/checked.h"
#include "engine/cuda/driver.h"

namespace ds4::cuda {

Result<DeviceTensor> WeightsBase::tensor(std::string_view name) const {
  DS4_ASSIGN(const TensorInfo* const info, owned_tensor(model_->gguf(), range_, name));
  assert(cover_.contains(info->offset, info->bytes));
  return DeviceTensor{info, address_of(*info)};
}

Result<void> WeightsBase::read_back(std::string_view name, std::uint64_t offset,
                                    std::span<std::byte> out) const {
  DS4_ASSIGN(const DeviceTensor found, tensor(name));
  if (!fits(offset, out.size(), found.info->bytes)) {
    return fail(ErrorCode::kOutOfRange,
                fmt::format("tensor '{}' has {} bytes; {} at {} reach beyond them", name,
                            found.info->bytes, out.size(), offset));
  }
  const std::string doing = fmt::format("read tensor '{}' back", name);
  DS4_CUDA_TRY(cudaSetDevice(device_), doing);
  while (!out.empty()) {
    const std::uint64_t bytes =
        std::min<std::uint64_t>(out.size(), copyable_bytes(found.info->offset + offset));
    DS4_CUDA_TRY(cudaMemcpy(out.data(), found.data + offset, bytes, cudaMemcpyDefault), doing);
    out = out.subspan(bytes);
    offset += bytes;
  }
  return {};
}

}  // namespace ds4::cuda
