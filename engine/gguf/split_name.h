#pragma once
// Models that were cut into several files are named `NAME-00001-of-00003.gguf`.
#include <string_view>

#include "engine/base/result.h"

namespace ds4 {

/// kUnsupported, with the way out, when `path` is named like one of several parts.
Result<void> refuse_split_name(std::string_view path);

}  // namespace ds4
