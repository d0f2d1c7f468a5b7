#include "engine/cuda/completeness_mark.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace ds4::cuda {
namespace {

CompletenessMark some_mark() {
  return {"0123456789abcdef0123456789abcdef", "L20", 12345678, 0x1111, 0x2222};
}

DevicePlan plan_of(std::uint64_t bytes) {
  const std::vector<Span> spans = {{0, bytes}};
  return DevicePlan::make(SpanCover::from_spans(spans, bytes, 4096).value(), 2u << 20).value();
}

TEST(CompletenessMark, ComesBackAsItWasWritten) {
  const auto back = decode(encode(some_mark()));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(*back, some_mark());
}

TEST(CompletenessMark, IsNotFoundInFreshMemory) {
  const auto found = decode(MarkBytes{});
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code, ErrorCode::kCorrupt);
}

TEST(CompletenessMark, IsRefusedWhenAnyOfItsBytesDiffers) {
  const MarkBytes whole = encode(some_mark());
  // As far as the mark reaches: fields, and the check behind them.
  const auto used = static_cast<std::size_t>(
      std::ranges::find_if(whole.rbegin(), whole.rend(),
                           [](std::byte byte) { return byte != std::byte{0}; })
          .base() -
      whole.begin());
  ASSERT_GT(used, 64u);
  for (std::size_t i = 0; i < used; ++i) {
    MarkBytes broken = whole;
    broken[i] ^= std::byte{0x40};
    EXPECT_FALSE(decode(broken)) << "byte " << i;
  }
}

TEST(CompletenessMark, NamesWhatDiffers) {
  const auto message = [](auto&& change) {
    CompletenessMark other = some_mark();
    change(other);
    const auto same = check_same(other, some_mark());
    return same ? std::string("the same") : same.error().message;
  };
  EXPECT_EQ(message([](auto&) {}), "the same");
  EXPECT_NE(message([](auto& m) { m.fingerprint[3] = 'x'; }).find("model"), std::string::npos);
  EXPECT_NE(message([](auto& m) { m.part = "L21"; }).find("L21"), std::string::npos);
  EXPECT_NE(message([](auto& m) { ++m.payload_bytes; }).find("arranged"), std::string::npos);
  EXPECT_NE(message([](auto& m) { ++m.geometry_hash; }).find("arranged"), std::string::npos);
  EXPECT_NE(message([](auto& m) { ++m.samples_hash; }).find("changed"), std::string::npos);
}

TEST(SamplePlaces, ReachFromTheFirstByteToTheLast) {
  for (const std::uint64_t bytes : {1ull, 4096ull, 4097ull, 3ull << 30}) {
    const auto places = sample_places(plan_of(bytes));
    ASSERT_FALSE(places.empty());
    EXPECT_EQ(places.front(), 0u);
    EXPECT_LT(places.back(), bytes);
    EXPECT_GE(places.back() + kSampleBytes, bytes);
    EXPECT_TRUE(std::ranges::is_sorted(places));
    EXPECT_EQ(std::ranges::adjacent_find(places), places.end()) << "one place twice";
  }
}

TEST(GeometryHash, DiffersWhereTheSameBytesStandElsewhere) {
  const std::vector<Span> one = {{0, 8192}};
  const std::vector<Span> other = {{8192, 8192}};
  const auto hash = [](const std::vector<Span>& spans) {
    return hash_geometry(
        DevicePlan::make(SpanCover::from_spans(spans, 1u << 20, 4096).value(), 2u << 20).value());
  };
  EXPECT_NE(hash(one), hash(other));
  EXPECT_EQ(hash(one), hash(one));
}

}  // namespace
}  // namespace ds4::cuda
