#include "engine/residency/residence.h"

#include <fmt/format.h>

namespace ds4 {

void Residency::add_up() {
  mapped_bytes = incore_bytes = locked_bytes = 0;
  for (const IntervalResidency& one : intervals) {
    mapped_bytes += one.mapped_bytes;
    incore_bytes += one.incore_bytes;
    locked_bytes += one.locked_bytes;
  }
}

Result<const TensorInfo*> owned_tensor(const GgufFile& gguf, const LayerRange& range,
                                       std::string_view name) {
  const TensorInfo* const info = gguf.find(name);
  if (info == nullptr) {
    return fail(ErrorCode::kNotFound, fmt::format("the model file has no tensor '{}'", name));
  }
  if (!range.owns(name)) {
    return fail(ErrorCode::kOutOfRange,
                fmt::format("tensor '{}' does not belong to layers {}, which are all this slice "
                            "holds",
                            name, range.to_string()));
  }
  return info;
}

}  // namespace ds4
