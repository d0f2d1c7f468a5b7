#pragma once
// The tensor types that DeepSeek V4 files use, with the numbers that GGUF gives them.
#include <cstdint>
#include <optional>
#include <string_view>

namespace ds4 {

enum class TensorType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ4_K = 12,
  kIQ2_XXS = 16,
  kI32 = 26,
  kBF16 = 30,
  kMXFP4 = 39,
};

/// How a type packs values: `block_values` values take `block_bytes` bytes.
struct TypeTraits {
  std::string_view name;
  std::uint32_t block_values;
  std::uint32_t block_bytes;
};

/// Nothing for a number we do not know.
std::optional<TypeTraits> traits_of(TensorType type);

}  // namespace ds4
