#include "agent/plan/layer_loads.h"

#include <gtest/gtest.h>

#include <memory>

#include "agent/plan/range_cost.h"
#include "engine/gguf/model_file.h"
#include "engine/model/decode_traffic.h"
#include "engine/model/kv_cache.h"

namespace ds4::plan {
namespace {

/// The embedded model: 6 layers of ratios 0, 0, 4, 128, 4, 128.
class LayerLoads : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kContext = 4096;
  static constexpr std::uint64_t kPage = 4096;

  std::vector<wire::LayerLoad> loads(std::span<const Interval> held = {},
                                     bool kv_fixed = false) const {
    return layer_loads(file->gguf(), params, {Graph::kOfficial, kContext, kv_fixed, kPage}, held)
        .value();
  }
  SpanCover cover(const LayerRange& range) const {
    return SpanCover::of(file->gguf(), range, kPage).value();
  }
  /// Every range of the model.
  std::vector<LayerRange> ranges() const {
    std::vector<LayerRange> all;
    for (std::uint32_t first = 0; first < params.n_layer; ++first) {
      for (std::uint32_t last = first; last < params.n_layer; ++last) {
        all.push_back({first, last, false});
      }
      all.push_back({first, params.n_layer - 1, true});
    }
    return all;
  }
  static std::size_t end_of(const LayerRange& range) {
    return std::size_t{range.last} + 1 + (range.output ? 1 : 0);
  }

  const std::shared_ptr<const ModelFile> file =
      ModelFile::open(DS4_SOURCE_DIR "/packaging/models/tiny-v4-q4.gguf").value();
  const HyperParams params = HyperParams::read(file->gguf()).value();
};

TEST_F(LayerLoads, AreOneForEachLayerAndOneForTheHead) {
  const auto all = loads();
  ASSERT_EQ(all.size(), 7U);
  EXPECT_EQ(all[2].kind, 4U);
  EXPECT_EQ(all[3].kind, 128U);
  EXPECT_EQ(all[6].kind, wire::kHeadKind);
  EXPECT_EQ(all[6].kv_bytes, 0U);
  // The head's product is E x V, and four streams are mixed before it.
  EXPECT_GE(all[6].row_macs, 256U * 4096U);
  EXPECT_LT(all[6].row_macs, 256U * 4096U + 10'000U);
}

TEST_F(LayerLoads, AddUpToNoLessThanTheirRangeTakes) {
  wire::NodeOffer offer;
  offer.layers = loads();
  for (const LayerRange& range : ranges()) {
    const SpanCover exact = cover(range);
    const RangeNeed need = need_of(offer, range.first, end_of(range));
    EXPECT_GE(need.weight_bytes, exact.cover_bytes()) << range.to_string();
    EXPECT_LE(need.weight_bytes, exact.cover_bytes() + kPage * exact.spans()) << range.to_string();
    const std::uint64_t kv = KvPlan::make(params, range, Graph::kOfficial, kContext).bytes;
    EXPECT_GE(need.kv_bytes, kv) << range.to_string();
    EXPECT_LE(need.kv_bytes, kv + 4096 * range.count()) << range.to_string();
    EXPECT_EQ(need.scratch_bytes, page_table_bytes(need.weight_bytes));
  }
}

TEST_F(LayerLoads, CountWhatServesOnce) {
  for (const LayerRange& held : {LayerRange{0, 2, false}, LayerRange{4, 5, true}}) {
    const SpanCover serving = cover(held);
    wire::NodeOffer offer;
    offer.held_bytes = serving.cover_bytes();
    offer.layers = loads(serving.intervals());
    for (const LayerRange& range : ranges()) {
      const std::uint64_t both = total_bytes(united(cover(range).intervals(), serving.intervals()));
      const RangeNeed need = need_of(offer, range.first, end_of(range));
      EXPECT_GE(need.weight_bytes, both) << range.to_string();
      EXPECT_LE(need.weight_bytes, both + kPage * cover(range).spans()) << range.to_string();
    }
  }
}

TEST_F(LayerLoads, DecodeWhatAWholeTokenReads) {
  std::uint64_t bytes = 0;
  for (const wire::LayerLoad& layer : loads()) bytes += layer.decode_bytes;
  const DecodeTraffic whole =
      decode_traffic(file->gguf(), params, {0, 5, true}, Graph::kOfficial, kPlannedPosition);
  EXPECT_EQ(bytes, whole.weight_bytes + whole.kv_bytes);
}

TEST_F(LayerLoads, HaveNoCachesOfTheirOwnWhereOneSumIsConfigured) {
  for (const wire::LayerLoad& layer : loads({}, true)) EXPECT_EQ(layer.kv_bytes, 0U);
}

TEST_F(LayerLoads, NeverCountAContextBeyondTheModels) {
  EXPECT_EQ(session_context(params, UINT32_MAX), params.context_length);
  EXPECT_EQ(session_context(params, 16), 16U);
}

TEST(RangeCost, TakesTheRateOfTheKindElseAnyElseNone) {
  wire::NodeOffer offer;
  const wire::LayerLoad layer{4, 0, 0, 0, 2'000'000, 3'000'000};
  EXPECT_EQ(decode_seconds(offer, layer), 0);
  offer.overall = {0, 1'000'000'000, 0};
  EXPECT_DOUBLE_EQ(decode_seconds(offer, layer), 2e-3);
  EXPECT_EQ(row_seconds(offer, layer), 0);
  offer.rates = {{128, 1, 1}, {4, 2'000'000'000, 3'000'000'000}};
  EXPECT_DOUBLE_EQ(decode_seconds(offer, layer), 1e-3);
  EXPECT_DOUBLE_EQ(row_seconds(offer, layer), 1e-3);
}

}  // namespace
}  // namespace ds4::plan
