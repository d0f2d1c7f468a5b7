#include "engine/cuda/registration_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "engine/gguf/model_file.h"
#include "engine/residency/span_map.h"
#include "tests/engine/gguf/temp_file.h"
#include "tests/engine/residency/synthetic_model.h"

namespace ds4::cuda {
namespace {

TEST(CutAt, CutsInsideOnly) {
  const Intervals intervals = {{10, 20}, {30, 40}};
  const std::vector<std::uint64_t> borders = {5, 10, 12, 15, 20, 25, 35, 40};
  EXPECT_EQ(cut_at(intervals, borders),
            (Intervals{{10, 12}, {12, 15}, {15, 20}, {30, 35}, {35, 40}}));
  EXPECT_EQ(cut_at(intervals, {}), intervals);
}

TEST(RegistrationPlan, SlicesThatShareBytesShareWholePieces) {
  constexpr std::uint32_t kLayers = 8;
  const test::TempDir dir;
  const auto model =
      ModelFile::open(dir.write("m.gguf", test::synthetic_model(kLayers, 30).build())).value();
  const auto borders = part_borders(*model).value();
  const auto pieces_of = [&](const LayerRange& range) {
    const auto cover = SpanCover::of(model->gguf(), range, system_page_bytes()).value();
    return cut_at(cover.intervals(), borders);
  };
  std::vector<Intervals> all;
  for (std::uint32_t first = 0; first < kLayers; ++first) {
    for (std::uint32_t last = first; last < kLayers; ++last) {
      all.push_back(pieces_of({first, last, false}));
      if (last == kLayers - 1) all.push_back(pieces_of({first, last, true}));
    }
  }
  for (const Intervals& a : all) {
    for (const Intervals& b : all) {
      for (const Interval& piece : a) {
        const auto overlap = total_bytes(intersection({&piece, 1}, b));
        if (overlap == 0) continue;
        EXPECT_NE(std::ranges::find(b, piece), b.end())
            << "piece " << piece.begin << ":" << piece.end << " is shared in part";
      }
    }
  }
}

TEST(RegistrationPlan, ABorderPageIsAPieceOfItsOwn) {
  const test::TempDir dir;
  const auto model =
      ModelFile::open(dir.write("m.gguf", test::synthetic_model(3, 30).build())).value();
  // The last tensor of layer 0 ends, and the first of layer 1 begins, inside one page.
  const std::uint64_t page = system_page_bytes();
  const std::uint64_t border = model->gguf().find("blk.1.attn.weight")->offset & ~(page - 1);
  const auto borders = part_borders(*model).value();
  EXPECT_TRUE(std::ranges::binary_search(borders, border));
  EXPECT_TRUE(std::ranges::binary_search(borders, border + page));
}

}  // namespace
}  // namespace ds4::cuda
