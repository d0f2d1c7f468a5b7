#pragma once
#include <cstdint>

namespace ds4 {

/// A row of the embedding table. Negative: no token.
using Token = std::int32_t;

}  // namespace ds4
