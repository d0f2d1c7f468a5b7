#pragma once
// Small text files, whole: read and written through interruptions.
#include <cstddef>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace ds4 {

/// From the descriptor's place to the file's end, but no more than `most` bytes. `path` names the
/// file in errors.
Result<std::string> read_text(int fd, std::size_t most, const std::string& path);

/// All of it, and on the disk when this returns.
Result<void> write_text(int fd, std::string_view text, const std::string& path);

}  // namespace ds4
