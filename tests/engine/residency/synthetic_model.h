#pragma once
// A small model file with the span geometry of a large one: many layers, the head and the embedding
// in awkward places, and an end inside a page.
#include <string>

#include "tests/engine/gguf/gguf_builder.h"

namespace ds4::test {

/// `layers` layers of three tensors of about `kib` KiB each, every value telling where it is from.
inline GgufBuilder synthetic_model(std::uint32_t layers, std::uint64_t kib) {
  GgufBuilder builder;
  std::uint32_t serial = 0;
  const auto add = [&](const std::string& name) {
    const std::uint64_t values = kib * 256 + 8;  // not a multiple of a page
    std::vector<std::uint32_t> data(values, ++serial);
    builder.tensor(name, TensorType::kI32, {values}, std::as_bytes(std::span(data)));
  };
  add("output.weight");
  for (std::uint32_t layer = 0; layer < layers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    for (const auto* part : {"attn.weight", "ffn.weight", "norm.weight"}) add(prefix + part);
  }
  add("output_norm.weight");
  add("token_embd.weight");
  return builder;
}

}  // namespace ds4::test
