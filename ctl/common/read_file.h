#pragma once
#include <string>

#include "engine/base/result.h"

namespace ds4::ctl {

/// The whole file, but no more than `most` bytes of it. Errors (kNotFound, kPermission, kIo) begin
/// with the path.
Result<std::string> read_file(const std::string& path, std::size_t most = std::string::npos);

}  // namespace ds4::ctl
