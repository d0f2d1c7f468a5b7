#pragma once
// A model of DeepSeek V4's architecture with sizes of its own, small enough to be written, loaded
// and computed by hand in a blink, and unlike the embedded ones wherever the architecture leaves a
// choice.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/gguf/gguf_builder.h"

namespace ds4::test {

/// Metadata pairs under `deepseek4.` in order, each replaceable or removable by its name.
class MicroMetadata {
 public:
  MicroMetadata();

  template <typename T>
  MicroMetadata& set(const std::string& name, T value) {
    const std::string key = "deepseek4." + name;
    return put(name, [=](GgufBuilder& builder) { builder.meta(key, value); });
  }
  template <typename T>
  MicroMetadata& set_array(const std::string& name, std::vector<T> values) {
    const std::string key = "deepseek4." + name;
    return put(name, [=](GgufBuilder& builder) {
      builder.meta_array<T>(key, std::span<const T>(values));
    });
  }
  MicroMetadata& drop(const std::string& name) {
    std::erase_if(pairs_, [&](const auto& pair) { return pair.first == name; });
    return *this;
  }
  MicroMetadata& architecture(std::string name) { return architecture_ = std::move(name), *this; }
  /// The number of tokens in tokenizer.ggml.tokens; 0 leaves the key out.
  MicroMetadata& tokens(std::size_t count) { return tokens_ = count, *this; }

  void write(GgufBuilder& builder) const;

 private:
  using Writer = std::function<void(GgufBuilder&)>;
  MicroMetadata& put(const std::string& name, Writer writer);

  std::string architecture_ = "deepseek4";
  std::size_t tokens_ = 0;
  std::vector<std::pair<std::string, Writer>> pairs_;
};

/// A tensor as the writer is about to store it; a test may change it.
struct MicroTensor {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<std::uint64_t> dims;
  std::vector<std::byte> data;
};

/// The file's bytes: random weights of a fixed seed. `edit` sees every tensor and may change it;
/// returning false leaves it out.
std::vector<std::byte> micro_model(const MicroMetadata& metadata = {},
                                   const std::function<bool(MicroTensor&)>& edit = {});

}  // namespace ds4::test
