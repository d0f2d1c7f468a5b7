#include "engine/residency/layer_range.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4 {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(LayerRange, ParsesBothForms) {
  EXPECT_EQ(LayerRange::parse("0:2", 6).value(), (LayerRange{0, 2, false}));
  EXPECT_EQ(LayerRange::parse("3:output", 6).value(), (LayerRange{3, 5, true}));
  EXPECT_EQ(LayerRange::parse("0:output", 6).value(), (LayerRange{0, 5, true}));
  EXPECT_EQ(LayerRange::parse("5:5", 6).value(), (LayerRange{5, 5, false}));
}

TEST(LayerRange, PrintsWhatItParses) {
  for (const auto* text : {"0:2", "3:output", "0:output", "4:5", "10:42"}) {
    EXPECT_EQ(LayerRange::parse(text, 43).value().to_string(), text);
  }
}

TEST(LayerRange, TheLastLayerIsNotTheOutputHead) {
  EXPECT_FALSE(LayerRange::parse("3:5", 6).value().output);
  EXPECT_EQ(LayerRange::parse("3:5", 6).value().count(), 3u);
}

TEST(LayerRange, RefusesMalformedTextAndNamesTheForms) {
  for (const auto* text : {"",
                           ":",
                           "3",
                           "3:",
                           ":3",
                           "a:b",
                           "-1:2",
                           "0:-1",
                           "+0:2",
                           " 0:2",
                           "0:2 ",
                           "0 :2",
                           "00:2",
                           "0:02",
                           "0:1:2",
                           "0-2",
                           "0:out",
                           "0:outputs",
                           "output:output",
                           "0x0:2",
                           "0:4294967296",
                           "0:99999999999999999999"}) {
    const auto range = LayerRange::parse(text, 6);
    ASSERT_FALSE(range) << text;
    EXPECT_EQ(range.error().code, ErrorCode::kInvalidArgument) << text;
    EXPECT_THAT(range.error().message, HasSubstr("A:output")) << text;
  }
}

TEST(LayerRange, RefusesLayersThatTheModelLacksAndNamesItsBounds) {
  for (const auto* text : {"0:6", "6:6", "6:output", "0:4294967295"}) {
    const auto range = LayerRange::parse(text, 6);
    ASSERT_FALSE(range) << text;
    EXPECT_EQ(range.error().code, ErrorCode::kOutOfRange) << text;
    EXPECT_THAT(range.error().message, AllOf(HasSubstr(text), HasSubstr("layers 0 to 5"))) << text;
  }
}

TEST(LayerRange, RefusesABackwardRange) {
  const auto range = LayerRange::parse("4:3", 6);
  ASSERT_FALSE(range);
  EXPECT_EQ(range.error().code, ErrorCode::kInvalidArgument);
}

TEST(LayerRange, RefusesAModelWithoutLayers) {
  EXPECT_FALSE(LayerRange::parse("0:output", 0));
}

TEST(LayerRange, OwnsItsLayersAndNoOthers) {
  const LayerRange range{3, 11, false};
  EXPECT_TRUE(range.owns("blk.3.attn_norm.weight"));
  EXPECT_TRUE(range.owns("blk.11.exp_probs_b.bias"));
  EXPECT_FALSE(range.owns("blk.2.attn_norm.weight"));
  EXPECT_FALSE(range.owns("blk.12.attn_norm.weight"));
  EXPECT_FALSE(range.owns("blk.30.attn_norm.weight"));  // begins like 3
}

TEST(LayerRange, OwnsTheEmbeddingWithLayerZero) {
  EXPECT_TRUE((LayerRange{0, 2, false}).owns("token_embd.weight"));
  EXPECT_FALSE((LayerRange{1, 2, true}).owns("token_embd.weight"));
}

TEST(LayerRange, OwnsTheHeadWithOutputOnly) {
  for (const auto* name : {"output.weight", "output_norm.weight", "output_hc_fn.weight",
                           "output_hc_base.weight", "output_hc_scale.weight"}) {
    EXPECT_TRUE((LayerRange{3, 5, true}).owns(name)) << name;
    EXPECT_FALSE((LayerRange{3, 5, false}).owns(name)) << name;
  }
}

TEST(LayerRange, OwnsNoTensorOfUnknownName) {
  const LayerRange everything{0, 42, true};
  for (const auto* name :
       {"", "blk.", "blk.1", "blk..x", "blk.-1.x", "blk.01.x", "blk.x.y", "outputs.weight",
        "output", "token_embd", "rope_freqs.weight", "blk.4294967297.x"}) {
    EXPECT_FALSE(everything.owns(name)) << name;
  }
}

}  // namespace
}  // namespace ds4
