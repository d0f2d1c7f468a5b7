#pragma once
// Internal to engine/residency: one layer's (or the head's) image in a memfd.
#include <memory>
#include <string>
#include <vector>

#include "engine/base/unique_fd.h"
#include "engine/gguf/model_file.h"
#include "engine/residency/byte_source.h"
#include "engine/residency/interval_set.h"
#include "engine/residency/layer_range.h"
#include "engine/residency/load_options.h"

namespace ds4 {

/// What a part is, before there are any bytes of it.
struct PartPlan {
  std::string name;  // "L20", "output"
  SpanCover cover;
  std::vector<const TensorInfo*> tensors;
};

/// The parts of a range, in order.
Result<std::vector<PartPlan>> plan_parts(const ModelFile& model, const LayerRange& range);

/// Copies the part and seals it. Progress counts what of it is in `missing`. run.store_note is set
/// where the kernel gave no large pages although `huge`. Errors leave nothing behind.
Result<UniqueFd> copy_part(const ModelFile& model, const PartPlan& plan,
                           std::span<const Interval> missing, ByteSource& source, bool huge,
                           LoadRun& run);

/// Errors: kMismatch, kCorrupt: this is not a whole image of that part of that model.
Result<void> check_part(const ModelFile& model, const PartPlan& plan, int fd);

}  // namespace ds4
