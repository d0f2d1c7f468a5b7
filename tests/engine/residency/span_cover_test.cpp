// SpanCover by example.
#include "engine/residency/span_cover.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/gguf/gguf_builder.h"

namespace ds4 {
namespace {

using test::Bytes;
using test::GgufBuilder;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kFile = 100 * kPage;

SpanCover cover_of(std::initializer_list<Span> spans, std::uint64_t file_bytes = kFile,
                   std::uint64_t page_bytes = kPage) {
  auto cover = SpanCover::from_spans({spans.begin(), spans.size()}, file_bytes, page_bytes);
  EXPECT_TRUE(cover) << cover.error().message;
  return cover ? std::move(*cover) : SpanCover();
}

TEST(SpanCover, RoundsOutToPages) {
  const SpanCover cover = cover_of({{kPage + 1, 1}});
  EXPECT_THAT(cover.intervals(), ElementsAre(Interval{kPage, 2 * kPage}));
  EXPECT_EQ(cover.cover_bytes(), kPage);
  EXPECT_EQ(cover.tensor_bytes(), 1u);
}

TEST(SpanCover, KeepsAPageAlignedSpanAsItIs) {
  const SpanCover cover = cover_of({{kPage, kPage}});
  EXPECT_THAT(cover.intervals(), ElementsAre(Interval{kPage, 2 * kPage}));
}

TEST(SpanCover, MergesTouchingPages) {
  const SpanCover cover = cover_of({{5 * kPage, 10}, {4 * kPage + 5, 10}, {6 * kPage, 1}});
  EXPECT_THAT(cover.intervals(), ElementsAre(Interval{4 * kPage, 7 * kPage}));
  EXPECT_EQ(cover.spans(), 3u);
}

TEST(SpanCover, MergesSpansThatShareAPage) {
  const SpanCover cover = cover_of({{100, 10}, {200, 10}});
  EXPECT_THAT(cover.intervals(), ElementsAre(Interval{0, kPage}));
  EXPECT_EQ(cover.cover_bytes(), kPage);
}

TEST(SpanCover, LeavesOutThePageBetween) {
  const SpanCover cover = cover_of({{0, kPage}, {2 * kPage, kPage}});
  EXPECT_THAT(cover.intervals(), ElementsAre(Interval{0, kPage}, Interval{2 * kPage, 3 * kPage}));
  EXPECT_EQ(cover.hull(), (Interval{0, 3 * kPage}));
  EXPECT_EQ(cover.cover_bytes(), 2 * kPage);
}

TEST(SpanCover, EndsWithTheFile) {
  const SpanCover cover = cover_of({{kPage + 10, 20}}, kPage + 30);
  EXPECT_THAT(cover.intervals(), ElementsAre(Interval{kPage, kPage + 30}));
  EXPECT_EQ(cover.cover_bytes(), 30u);
}

TEST(SpanCover, SkipsSpansOfNoBytes) {
  const SpanCover cover = cover_of({{kPage, 0}, {kFile, 0}});
  EXPECT_TRUE(cover.intervals().empty());
  EXPECT_EQ(cover.spans(), 0u);
  EXPECT_EQ(cover.hull(), Interval{});
}

TEST(SpanCover, ContainsNoByteOutside) {
  const SpanCover cover = cover_of({{kPage, kPage}, {3 * kPage, kPage}});
  EXPECT_TRUE(cover.contains(kPage, kPage));
  EXPECT_TRUE(cover.contains(2 * kPage - 1, 1));
  EXPECT_FALSE(cover.contains(kPage - 1, 2));
  EXPECT_FALSE(cover.contains(2 * kPage - 1, 2));
  EXPECT_FALSE(cover.contains(kPage, 3 * kPage));  // across the hole
  EXPECT_FALSE(cover.contains(0, 1));
  EXPECT_FALSE(cover.contains(4 * kPage, 1));
  EXPECT_FALSE(SpanCover().contains(0, 1));
}

TEST(SpanCover, ContainsNothingWhoseEndOverflows) {
  const SpanCover cover = cover_of({{UINT64_MAX - 10, 10}}, UINT64_MAX);
  EXPECT_TRUE(cover.contains(UINT64_MAX - 10, 10));
  EXPECT_FALSE(cover.contains(UINT64_MAX - 10, 11));
  EXPECT_FALSE(cover.contains(UINT64_MAX - 10, UINT64_MAX));
  EXPECT_FALSE(cover.contains(UINT64_MAX, 1));
  EXPECT_FALSE(cover.contains(1, UINT64_MAX));
}

TEST(SpanCover, RefusesSpansBeyondTheFile) {
  for (const Span span : {Span{kFile, 1}, Span{kFile - 1, 2}, Span{1, UINT64_MAX},
                          Span{UINT64_MAX, UINT64_MAX}, Span{UINT64_MAX, 0}}) {
    const auto cover = SpanCover::from_spans({&span, 1}, kFile, kPage);
    ASSERT_FALSE(cover);
    EXPECT_EQ(cover.error().code, ErrorCode::kCorrupt);
    EXPECT_THAT(cover.error().message, HasSubstr("beyond"));
  }
}

TEST(SpanCover, RefusesASumThatOverflows) {
  const Span spans[] = {{0, UINT64_MAX}, {0, UINT64_MAX}};
  EXPECT_FALSE(SpanCover::from_spans(spans, UINT64_MAX, kPage));
}

TEST(SpanCover, DescribesItselfInTheLineOfTheLog) {
  // One file of 150 GiB; 48 spans that make three intervals of 76.21 GiB in all, from 72 GiB on.
  constexpr std::uint64_t kGiB = 1ull << 30;
  constexpr std::uint64_t kEnd = 150 * kGiB;
  std::vector<Span> spans;
  const auto run = [&](std::uint64_t begin, std::uint64_t bytes, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) {
      spans.push_back({begin + bytes / count * i, bytes / count});
    }
  };
  const std::uint64_t total = kGiB * 7621 / 100 / kPage * kPage;
  run(72 * kGiB, 60 * kGiB, 40);
  run(133 * kGiB, 4 * kGiB, 4);
  run(150 * kGiB - (total - 64 * kGiB), total - 64 * kGiB, 4);
  const auto cover = SpanCover::from_spans(spans, kEnd, kPage);
  ASSERT_TRUE(cover);
  EXPECT_EQ(cover->describe(),
            "span cover 76.21 GiB of 150.00 GiB model (48 spans in 3 intervals, offset 72.00 GiB)");
}

TEST(SpanCover, DescribesSmallModelsInMebibytes) {
  constexpr std::uint64_t kMiB = 1u << 20;
  EXPECT_EQ(cover_of({{8 * kMiB, kMiB}, {10 * kMiB, kMiB / 2}}, 19 * kMiB).describe(),
            "span cover 1.50 MiB of 19.00 MiB model (2 spans in 2 intervals, offset 8.00 MiB)");
  EXPECT_EQ(cover_of({{8 * kMiB, kMiB}}, 19 * kMiB).describe(),
            "span cover 1.00 MiB of 19.00 MiB model (1 span in 1 interval, offset 8.00 MiB)");
}

TEST(SpanCover, TakesTheTensorsOfItsRange) {
  GgufBuilder builder;
  builder.alignment(4096).meta("general.alignment", std::uint32_t{4096});
  for (const auto* name : {"output.weight", "blk.1.a.weight", "blk.0.a.weight", "blk.2.a.weight",
                           "token_embd.weight", "blk.1.b.weight"}) {
    builder.tensor(name, TensorType::kF32, {1024});
  }
  const Bytes bytes = builder.build();
  const auto file = GgufFile::parse(bytes, bytes.size());
  ASSERT_TRUE(file) << file.error().message;
  const std::uint64_t data = file->data_offset();
  const auto cover = SpanCover::of(*file, LayerRange{1, 2, true}, kPage);
  ASSERT_TRUE(cover) << cover.error().message;
  EXPECT_THAT(cover->intervals(), ElementsAre(Interval{data, data + 2 * kPage},
                                              Interval{data + 3 * kPage, data + 4 * kPage},
                                              Interval{data + 5 * kPage, data + 6 * kPage}));
  EXPECT_EQ(cover->spans(), 4u);
  EXPECT_EQ(cover->tensor_bytes(), 4 * kPage);
}

}  // namespace
}  // namespace ds4
