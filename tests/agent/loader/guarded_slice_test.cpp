#include "agent/loader/guarded_slice.h"

#include <gtest/gtest.h>

namespace ds4::agent {
namespace {

class FakeWeights final : public Residence {
 public:
  std::string_view strategy() const override { return "file"; }
  const LayerRange& range() const override { return range_; }
  const SpanCover& cover() const override { return cover_; }
  Result<Residency> audit() const override { return Residency{}; }
  const LoadFigures& figures() const override { return figures_; }
  const std::string& note() const override { return note_; }
  std::optional<std::string> broken() const override { return why; }
  std::optional<std::string> why;

 private:
  LayerRange range_;
  SpanCover cover_;
  LoadFigures figures_;
  std::string note_;
};

class FakeSlice final : public Slice {
 public:
  explicit FakeSlice(FakeWeights& weights) : weights_(weights) {}
  const HyperParams& params() const override { return params_; }
  const LayerRange& range() const override { return range_; }
  std::uint32_t max_rows() const override { return 7; }
  Result<void> open_session(SessionId, std::uint32_t) override { return {}; }
  void close_session(SessionId) override {}
  Result<std::uint32_t> position(SessionId) const override { return 3; }
  Result<void> forward(const SliceInput&, const SliceOutput&) override {
    if (break_inside) weights_.why = "its disk failed";
    return {};
  }
  std::uint64_t kv_bytes() const override { return 11; }
  std::uint64_t kv_bytes_for(std::uint32_t context) const override { return context; }
  bool break_inside = false;

 private:
  FakeWeights& weights_;
  HyperParams params_;
  LayerRange range_;
};

TEST(GuardedSlice, ThrowsAwayWhatWasComputedFromBrokenWeights) {
  auto weights = std::make_shared<FakeWeights>();
  auto inner = std::make_unique<FakeSlice>(*weights);
  FakeSlice& fake = *inner;
  const auto slice = guard_slice(std::move(inner), weights);
  EXPECT_TRUE(slice->forward({}, {}));
  fake.break_inside = true;
  const auto lost = slice->forward({}, {});
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, ErrorCode::kIo);
  EXPECT_EQ(lost.error().message, "its disk failed");
}

TEST(GuardedSlice, PassesTheRestOn) {
  auto weights = std::make_shared<FakeWeights>();
  const auto slice = guard_slice(std::make_unique<FakeSlice>(*weights), weights);
  EXPECT_EQ(slice->max_rows(), 7u);
  EXPECT_EQ(slice->kv_bytes(), 11u);
  EXPECT_EQ(slice->kv_bytes_for(5), 5u);
  EXPECT_EQ(slice->position(1).value(), 3u);
}

}  // namespace
}  // namespace ds4::agent
