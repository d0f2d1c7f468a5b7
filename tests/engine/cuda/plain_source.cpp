#include "tests/engine/cuda/plain_source.h"

#include <fmt/format.h>

#include "engine/model/hyper_params.h"
#include "engine/residency/resident_slice.h"
#include "tests/engine/cuda/random_tensor.h"

namespace ds4::test {

Result<std::shared_ptr<PlainSource>> PlainSource::make(std::shared_ptr<const ModelFile> model,
                                                       const LayerRange& range, Contents contents) {
  auto source = std::make_shared<PlainSource>();
  source->model_ = model;
  source->range_ = range;
  std::shared_ptr<const ResidentSlice> resident;
  if (contents == Contents::kOfFile) {
    LoadOptions options;
    options.lock = false;
    DS4_ASSIGN(resident, ResidentSlice::load(model, range, options));
  }
  DS4_ASSIGN(const HyperParams params, HyperParams::read(model->gguf()));
  for (const TensorInfo& info : model->gguf().tensors()) {
    if (!range.owns(info.name)) continue;
    constexpr std::uint64_t kSlack = 16;  // copies of 16 bytes run over a tensor's end
    DS4_ASSIGN(auto buffer, cuda::device_buffer<std::byte>(info.bytes + kSlack, info.name));
    if (resident) {
      DS4_ASSIGN(const TensorView view, resident->tensor(info.name));
      DS4_CUDA_TRY(cudaMemcpy(buffer.data(), view.bytes.data(), info.bytes, cudaMemcpyHostToDevice),
                   "copy a tensor");
    } else {
      DS4_CUDA_TRY(fill_random(info, params.n_expert, buffer.data()), "fill a tensor");
    }
    source->bytes_ += info.bytes;
    source->tensors_.emplace(info.name, std::move(buffer));
  }
  DS4_CUDA_TRY(cudaDeviceSynchronize(), "fill tensors");
  return source;
}

Result<DeviceTensor> PlainSource::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end())
    return fail(ErrorCode::kNotFound, fmt::format("no tensor {} on the device", name));
  return DeviceTensor{model_->gguf().find(name), found->second.data()};
}

Result<void> PlainSource::read_back(std::string_view name, std::uint64_t offset,
                                    std::span<std::byte> out) const {
  DS4_ASSIGN(const DeviceTensor tensor, this->tensor(name));
  DS4_CUDA_TRY(cudaMemcpy(out.data(), tensor.data + offset, out.size(), cudaMemcpyDeviceToHost),
               "read a tensor back");
  return {};
}

}  // namespace ds4::test
