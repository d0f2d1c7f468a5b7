#include "engine/residency/resident_slice.h"

#include <fmt/format.h>

#include <cassert>

#include "engine/gguf/model_file.h"
#include "engine/residency/residency_audit.h"

namespace ds4 {

Result<std::shared_ptr<ResidentSlice>> ResidentSlice::load(std::shared_ptr<WeightSpace> space,
                                                           const LayerRange& range,
                                                           const LoadOptions& options) {
  auto loaded = space->claim(range, options);
  if (!loaded) {
    return fail(std::move(loaded).error(),
                fmt::format("load layers {} of {}", range.to_string(), space->model().path()));
  }
  return std::shared_ptr<ResidentSlice>(
      new ResidentSlice(std::move(space), range, *std::move(loaded)));
}

Result<std::shared_ptr<ResidentSlice>> ResidentSlice::load(std::shared_ptr<const ModelFile> model,
                                                           const LayerRange& range,
                                                           const LoadOptions& options) {
  DS4_ASSIGN(auto space, WeightSpace::open(model, make_file_store(model, false)));
  return load(std::move(space), range, options);
}

Result<TensorView> ResidentSlice::tensor(std::string_view name) const {
  DS4_ASSIGN(const TensorInfo* const info, owned_tensor(model().gguf(), range_, name));
  assert(cover().contains(info->offset, info->bytes));
  return TensorView{info, {reservation() + info->offset, info->bytes}};
}

Result<Residency> ResidentSlice::audit() const {
  const bool believe_mincore = space_->store().owns_pages() || mincore_is_honest(model().fd());
  return audit_mapping(reservation(), space_->map().reserved_bytes(), cover(), space_->claimed(),
                       believe_mincore);
}

}  // namespace ds4
