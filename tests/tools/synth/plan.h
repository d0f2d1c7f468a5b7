#pragma once
// What a synthetic model file will hold, before a byte of it is written: every tensor with its
// place, and the finished header. The plan of 150 GiB takes milliseconds.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/gguf/tensor_type.h"
#include "tests/tools/synth/dims.h"

namespace ds4::synth {

/// What the values of a tensor mean, which decides what random values are sane.
enum class Content {
  kMatrix,     // zero mean, variance 1 / row length: products keep the size of their input
  kOnes,       // the weights of a norm
  kSmall,      // uniform in +-0.1: biases, bases, sinks
  kExpertIds,  // rows of distinct expert numbers
};

struct Tensor {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<std::uint64_t> dims;
  Content content = Content::kMatrix;
  std::uint64_t offset = 0;  // from the start of the file
  std::uint64_t bytes = 0;
};

struct Plan {
  Dims dims;
  std::uint64_t seed = 0;
  std::vector<std::byte> header;
  std::vector<Tensor> tensors;  // in the order of the file
  std::uint64_t file_bytes = 0;
};

/// Errors: kInvalidArgument for dimensions that the recipe's block formats cannot hold.
Result<Plan> make_plan(const Dims& dims, Recipe recipe, Order order, std::uint64_t seed);

}  // namespace ds4::synth
