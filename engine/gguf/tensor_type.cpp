#include "engine/gguf/tensor_type.h"

namespace ds4 {

std::optional<TypeTraits> traits_of(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return TypeTraits{"F32", 1, 4};
    case TensorType::kF16:
      return TypeTraits{"F16", 1, 2};
    case TensorType::kQ8_0:
      return TypeTraits{"Q8_0", 32, 34};
    case TensorType::kQ2_K:
      return TypeTraits{"Q2_K", 256, 84};
    case TensorType::kQ4_K:
      return TypeTraits{"Q4_K", 256, 144};
    case TensorType::kIQ2_XXS:
      return TypeTraits{"IQ2_XXS", 256, 66};
    case TensorType::kI32:
      return TypeTraits{"I32", 1, 4};
    case TensorType::kBF16:
      return TypeTraits{"BF16", 1, 2};
    case TensorType::kMXFP4:
      return TypeTraits{"MXFP4", 32, 17};
  }
  return std::nullopt;  // the number came from a file and is none of ours
}

}  // namespace ds4
