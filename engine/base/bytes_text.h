#pragma once
#include <cstdint>
#include <string>

namespace ds4 {

/// "0 B", "512 B", "12.00 KiB", "78.21 GiB": two decimals from KiB on.
std::string bytes_text(std::uint64_t bytes);

}  // namespace ds4
