// What well-formed bytes parse to.
#include <gtest/gtest.h>

#include "engine/gguf/gguf.h"
#include "tests/engine/gguf/gguf_builder.h"

namespace ds4 {
namespace {

using test::Bytes;
using test::GgufBuilder;

TEST(GgufParse, ReadsAnEmptyModel) {
  const Bytes bytes = GgufBuilder().build();
  const auto file = GgufFile::parse(bytes, bytes.size());
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->version(), 3u);
  EXPECT_TRUE(file->tensors().empty());
  EXPECT_EQ(file->metadata_end(), 24u);
  EXPECT_EQ(file->data_offset(), 32u);
}

TEST(GgufParse, AcceptsVersionTwo) {
  const Bytes bytes = GgufBuilder().version(2).meta("a", "b").build();
  const auto file = GgufFile::parse(bytes, bytes.size());
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->version(), 2u);
}

TEST(GgufParse, PlacesTensorsAtFileOffsets) {
  const Bytes bytes = GgufBuilder()
                          .tensor("first", TensorType::kF32, {5})
                          .tensor("second", TensorType::kQ8_0, {64, 3})
                          .build();
  const auto file = GgufFile::parse(bytes, bytes.size());
  ASSERT_TRUE(file) << file.error().message;
  ASSERT_EQ(file->tensors().size(), 2u);
  const TensorInfo* first = file->find("first");
  const TensorInfo* second = file->find("second");
  ASSERT_NE(first, nullptr);
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(first->offset, file->data_offset());
  EXPECT_EQ(first->bytes, 20u);
  EXPECT_EQ(first->dims, (std::array<std::uint64_t, 4>{5, 1, 1, 1}));
  EXPECT_EQ(second->offset, file->data_offset() + 32);
  EXPECT_EQ(second->bytes, 6u * 34);
  EXPECT_EQ(second->n_dims, 2u);
  EXPECT_EQ(second->type, TensorType::kQ8_0);
  EXPECT_EQ(file->find("third"), nullptr);
}

TEST(GgufParse, KnowsTheSizeOfEveryType) {
  const struct {
    TensorType type;
    std::uint64_t bytes_of_512;
  } kTypes[] = {
      {TensorType::kF32, 2048},    {TensorType::kF16, 1024},       {TensorType::kBF16, 1024},
      {TensorType::kI32, 2048},    {TensorType::kQ8_0, 16 * 34},   {TensorType::kQ4_K, 2 * 144},
      {TensorType::kQ2_K, 2 * 84}, {TensorType::kIQ2_XXS, 2 * 66}, {TensorType::kMXFP4, 16 * 17},
  };
  for (const auto& [type, bytes_of_512] : kTypes) {
    const Bytes bytes = GgufBuilder().tensor("t", type, {512, 2, 3, 4}).build();
    const auto file = GgufFile::parse(bytes, bytes.size());
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->tensors()[0].bytes, bytes_of_512 * 24) << traits_of(type)->name;
  }
}

TEST(GgufParse, HonoursTheAlignmentOfTheFile) {
  const Bytes bytes = GgufBuilder()
                          .alignment(4096)
                          .meta("general.alignment", std::uint32_t{4096})
                          .tensor("a", TensorType::kF32, {1})
                          .tensor("b", TensorType::kF32, {1})
                          .build();
  const auto file = GgufFile::parse(bytes, bytes.size());
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->data_offset(), 4096u);
  EXPECT_EQ(file->find("b")->offset, 8192u);
}

TEST(GgufParse, NeedsTheHeaderOnly) {
  const GgufBuilder builder = GgufBuilder().tensor("a", TensorType::kF32, {1000});
  const Bytes header = builder.header();
  const auto file = GgufFile::parse(header, builder.build().size());
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->table_end(), header.size());
}

TEST(GgufParse, IgnoresBytesBeyondTheStatedFileSize) {
  Bytes bytes = GgufBuilder().meta("a", "b").build();
  const std::uint64_t file_bytes = bytes.size();
  bytes.resize(bytes.size() + 100);
  EXPECT_TRUE(GgufFile::parse(bytes, file_bytes));
}

TEST(GgufParse, MetadataAloneIsAFileWithoutTensors) {
  const GgufBuilder builder = GgufBuilder().meta("a", "b").tensor("t", TensorType::kF32, {1});
  const Bytes bytes = builder.build();
  const auto whole = GgufFile::parse(bytes, bytes.size());
  ASSERT_TRUE(whole);
  Bytes image(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(whole->metadata_end()));
  std::memset(image.data() + 8, 0, 8);
  const auto file = GgufFile::parse(image, image.size());
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(*file->string("a"), "b");
  EXPECT_TRUE(file->tensors().empty());
}

TEST(GgufParse, AcceptsTensorsInAnyOrderAndWithGaps) {
  const Bytes header = GgufBuilder()
                           .tensor_at("late", TensorType::kF32, {8}, 128)
                           .tensor_at("early", TensorType::kF32, {8}, 0)
                           .header();
  const auto file = GgufFile::parse(header, 4096);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->find("late")->offset, file->data_offset() + 128);
}

}  // namespace
}  // namespace ds4
