#pragma once
// A plan becomes a file.
#include <cstdint>
#include <optional>
#include <string>

#include "engine/base/result.h"
#include "engine/residency/layer_range.h"
#include "tests/tools/synth/plan.h"

namespace ds4::synth {

/// Writes header and, of the tensors that `populate` owns, the data, on `threads` threads; the rest
/// of the file is a hole (reads as zeros, takes no space). `path` must not exist. A file that could
/// not be finished is removed. Returns the bytes of tensor data written.
Result<std::uint64_t> write_file(const Plan& plan, const std::string& path,
                                 const std::optional<LayerRange>& populate, unsigned threads);

}  // namespace ds4::synth
