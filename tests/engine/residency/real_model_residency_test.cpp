// The acceptance figures on the model that comes with the project.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/gguf/model_file.h"
#include "engine/residency/resident_slice.h"
#include "engine/residency/span_map.h"

namespace ds4 {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(RealModelResidency, TheUpperHalfIsInCoreAndNothingElseIsMapped) {
  const auto model = ModelFile::open(DS4_SOURCE_DIR "/packaging/models/tiny-v4-q4.gguf");
  ASSERT_TRUE(model) << model.error().message;
  const auto range = LayerRange::parse("3:output", 6);
  ASSERT_TRUE(range);
  const auto slice = ResidentSlice::load(*model, *range);
  ASSERT_TRUE(slice) << slice.error().message;
  const auto audit = (*slice)->audit();
  ASSERT_TRUE(audit) << audit.error().message;
  const SpanCover& cover = (*slice)->cover();
  EXPECT_GT(cover.cover_bytes(), 0u);
  EXPECT_LT(cover.cover_bytes(), cover.file_bytes() * 3 / 4);
  EXPECT_EQ(audit->mapped_bytes, cover.cover_bytes());
  EXPECT_EQ(audit->incore_bytes, cover.cover_bytes());
  EXPECT_EQ(audit->outside_cover_bytes, 0u);
  EXPECT_THAT(cover.describe(), StartsWith("span cover "));
  for (const TensorInfo& tensor : (*model)->gguf().tensors()) {
    EXPECT_EQ((*slice)->tensor(tensor.name).has_value(), range->owns(tensor.name)) << tensor.name;
  }
  const auto foreign = (*slice)->tensor("blk.0.attn_kv.weight");
  ASSERT_FALSE(foreign);
  EXPECT_THAT(foreign.error().message, HasSubstr("3:output"));
}

TEST(RealModelResidency, TwoHalvesOwnEveryTensorOnce) {
  const auto model = ModelFile::open(DS4_SOURCE_DIR "/packaging/models/tiny-v4-q4.gguf");
  ASSERT_TRUE(model) << model.error().message;
  const LayerRange lower{0, 2, false}, upper{3, 5, true};
  for (const TensorInfo& tensor : (*model)->gguf().tensors()) {
    EXPECT_NE(lower.owns(tensor.name), upper.owns(tensor.name)) << tensor.name;
  }
}

}  // namespace
}  // namespace ds4
