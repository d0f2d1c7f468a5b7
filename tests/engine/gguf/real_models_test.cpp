// The models that come with the project.
#include <gtest/gtest.h>

#include <set>

#include "engine/gguf/model_file.h"

namespace ds4 {
namespace {

const char* const kModels[] = {
    DS4_SOURCE_DIR "/packaging/models/tiny-v4-q4.gguf",
    DS4_SOURCE_DIR "/tests/models/tiny-v4-q2.gguf",
    DS4_SOURCE_DIR "/tests/models/tiny-v4-mxfp4.gguf",
};

class RealModels : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, RealModels, ::testing::ValuesIn(kModels));

TEST_P(RealModels, ParseToTheSizesOfTheirArchitecture) {
  const auto model = ModelFile::open(GetParam());
  ASSERT_TRUE(model) << model.error().message;
  const GgufFile& gguf = (*model)->gguf();
  EXPECT_EQ(gguf.string("general.architecture").value_or(""), "deepseek4");
  EXPECT_EQ(gguf.u32("deepseek4.block_count").value_or(0), 6u);
  EXPECT_EQ(gguf.u32("deepseek4.embedding_length").value_or(0), 256u);
  EXPECT_EQ(gguf.string_array("tokenizer.ggml.tokens").value().size(), 4096u);
  EXPECT_EQ(gguf.u32_array("deepseek4.attention.compress_ratios").value(),
            (std::vector<std::uint32_t>{0, 0, 4, 128, 4, 128}));
  const TensorInfo* head = gguf.find("output.weight");
  ASSERT_NE(head, nullptr);
  EXPECT_EQ(head->dims, (std::array<std::uint64_t, 4>{256, 4096, 1, 1}));
  for (const TensorInfo& tensor : gguf.tensors()) {
    EXPECT_LE(tensor.offset + tensor.bytes, gguf.file_bytes()) << tensor.name;
    EXPECT_EQ(gguf.find(tensor.name), &tensor);
  }
}

TEST(RealModelsTogether, UseEveryTensorTypeOfTheFormat) {
  std::set<TensorType> seen;
  std::set<std::string> fingerprints;
  for (const char* path : kModels) {
    const auto model = ModelFile::open(path);
    ASSERT_TRUE(model) << model.error().message;
    for (const TensorInfo& tensor : (*model)->gguf().tensors()) seen.insert(tensor.type);
    fingerprints.insert((*model)->fingerprint());
  }
  EXPECT_EQ(seen, (std::set<TensorType>{TensorType::kF32, TensorType::kF16, TensorType::kQ8_0,
                                        TensorType::kQ2_K, TensorType::kQ4_K, TensorType::kIQ2_XXS,
                                        TensorType::kI32, TensorType::kBF16, TensorType::kMXFP4}));
  EXPECT_EQ(fingerprints.size(), std::size(kModels));
}

}  // namespace
}  // namespace ds4
