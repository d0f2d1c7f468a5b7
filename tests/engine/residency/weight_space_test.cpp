// Several slices in one address space: what is loaded, what stays, what goes. For each strategy of
// host memory.
#include "engine/residency/weight_space.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "engine/gguf/model_file.h"
#include "engine/residency/memfd_store.h"
#include "engine/residency/resident_slice.h"
#include "tests/engine/gguf/temp_file.h"
#include "tests/engine/residency/keeper_fake.h"
#include "tests/engine/residency/memory_facts.h"
#include "tests/engine/residency/synthetic_model.h"

namespace ds4 {
namespace {

class WeightSpaceTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    path_ = dir_.write("model.gguf", test::synthetic_model(8, 40).build());
    model_ = ModelFile::open(path_).value();
    space_ = open_space();
  }
  std::shared_ptr<WeightSpace> open_space() {
    if (GetParam() == "file")
      return WeightSpace::open(model_, make_file_store(model_, true)).value();
    MemfdOptions options;
    options.keeper = &keeper_;
    options.huge_pages = GetParam() == "memfd-huge";
    return WeightSpace::open(model_,
                             make_memfd_store(model_, make_file_source(*model_).value(), options))
        .value();
  }
  std::shared_ptr<ResidentSlice> load(const LayerRange& range) {
    LoadOptions options;
    options.chunk_bytes = 64 << 10;
    auto slice = ResidentSlice::load(space_, range, options);
    EXPECT_TRUE(slice) << slice.error().message;
    return slice ? *slice : nullptr;
  }
  std::uint64_t cover_bytes(const LayerRange& range) const {
    return SpanCover::of(model_->gguf(), range, system_page_bytes())->cover_bytes();
  }
  /// Every byte of every tensor of the slice is the file's.
  void expect_intact(const ResidentSlice& slice) {
    for (const TensorInfo& tensor : model_->gguf().tensors()) {
      if (!slice.range().owns(tensor.name)) continue;
      std::vector<std::byte> file(tensor.bytes);
      ASSERT_EQ(::pread(model_->fd(), file.data(), file.size(), static_cast<off_t>(tensor.offset)),
                static_cast<ssize_t>(file.size()));
      const auto view = slice.tensor(tensor.name);
      ASSERT_EQ(std::memcmp(view->bytes.data(), file.data(), file.size()), 0) << tensor.name;
    }
  }

  test::TempDir dir_;
  std::string path_;
  std::shared_ptr<const ModelFile> model_;
  test::FakeKeeper keeper_;
  std::shared_ptr<WeightSpace> space_;
};

INSTANTIATE_TEST_SUITE_P(Strategies, WeightSpaceTest,
                         ::testing::Values("file", "memfd", "memfd-huge"), [](const auto& param) {
                           std::string name = param.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST_P(WeightSpaceTest, HoldsTheCoverAndNothingElse) {
  for (const LayerRange range :
       {LayerRange{0, 1, false}, LayerRange{3, 5, false}, LayerRange{5, 7, true}}) {
    const auto slice = load(range);
    ASSERT_NE(slice, nullptr);
    expect_intact(*slice);
    const auto audit = slice->audit();
    ASSERT_TRUE(audit) << audit.error().message;
    EXPECT_EQ(audit->mapped_bytes, slice->cover().cover_bytes());
    EXPECT_EQ(audit->incore_bytes, slice->cover().cover_bytes());
    EXPECT_EQ(audit->outside_cover_bytes, 0u);
    EXPECT_EQ(slice->figures().read_bytes, slice->cover().cover_bytes());
  }
}

TEST_P(WeightSpaceTest, GrowingLoadsTheDifferenceAndTouchesNothingElse) {
  const auto before = load({0, 3, false});
  ASSERT_NE(before, nullptr);
  const Interval first = before->cover().intervals()[0];
  const std::byte* const kept = before->reservation() + first.begin;
  touch_pages(kept, first.bytes());  // a sanitizer's shadow of them is there now, too
  const auto frames = test::page_frames(kept, first.bytes());
  const auto after = load({0, 5, false});
  ASSERT_NE(after, nullptr);
  EXPECT_EQ(after->figures().read_bytes, cover_bytes({0, 5, false}) - cover_bytes({0, 3, false}));
  EXPECT_EQ(after->figures().kept_bytes, cover_bytes({0, 3, false}));
  EXPECT_EQ(after->reservation(), before->reservation());
  EXPECT_EQ(test::page_frames(kept, first.bytes()), frames);
  const long faults = test::page_faults();
  touch_pages(kept, first.bytes());
  EXPECT_EQ(test::page_faults(), faults) << "kept pages had left the page tables";
  expect_intact(*after);
  EXPECT_EQ(after->audit()->outside_cover_bytes, 0u);
  EXPECT_EQ(before->audit()->outside_cover_bytes, 0u);
  EXPECT_EQ(before->audit()->mapped_bytes, before->cover().cover_bytes());
}

TEST_P(WeightSpaceTest, MovingLoadsTheDifferenceInTheMiddleOfItsIntervals) {
  const auto before = load({2, 5, false});
  const auto after = load({4, 7, true});
  ASSERT_TRUE(before && after);
  const auto shared = intersection(before->cover().intervals(), after->cover().intervals());
  EXPECT_GT(total_bytes(shared), 0u);
  EXPECT_EQ(after->figures().read_bytes, after->cover().cover_bytes() - total_bytes(shared));
  expect_intact(*after);
  expect_intact(*before);
}

TEST_P(WeightSpaceTest, ShrinkingFreesAtOnce) {
  // Pages that wait for the disk cannot leave, nor can a part of a large folio, as writing makes.
  ASSERT_EQ(::fsync(model_->fd()), 0);
  ASSERT_EQ(::posix_fadvise(model_->fd(), 0, 0, POSIX_FADV_DONTNEED), 0);
  auto before = load({0, 5, false});
  const auto after = load({0, 2, false});
  ASSERT_TRUE(before && after);
  EXPECT_EQ(after->figures().read_bytes, 0u);
  const auto gone = difference(before->cover().intervals(), after->cover().intervals());
  before.reset();
  if (GetParam() == "file") {
    for (const Interval& interval : gone) {
      EXPECT_EQ(test::cached_bytes(path_, interval.begin, interval.bytes()), 0u);
    }
  }
  EXPECT_EQ(space_->claimed(),
            Intervals(after->cover().intervals().begin(), after->cover().intervals().end()));
  const auto audit = after->audit();
  EXPECT_EQ(audit->mapped_bytes, after->cover().cover_bytes());
  EXPECT_EQ(audit->incore_bytes, after->cover().cover_bytes());
  EXPECT_EQ(audit->outside_cover_bytes, 0u);
  expect_intact(*after);
  if (GetParam() != "file") {
    EXPECT_EQ(test::descriptors_of("memfd:ds4."), 2u * 3u);  // the store's and the keeper's
    EXPECT_THAT(keeper_.names(), ::testing::ElementsAre("L0", "L1", "L2"));
  }
}

TEST_P(WeightSpaceTest, ALayerThatStaysKeepsThePageItSharedWithOneThatGoes) {
  // Claimed first, layer 3 brought the pages on its borders; 4 only uses them.
  auto third = load({3, 3, false});
  const auto fourth = load({4, 4, false});
  ASSERT_TRUE(third && fourth);
  third.reset();
  expect_intact(*fourth);
  EXPECT_EQ(fourth->audit()->mapped_bytes, fourth->cover().cover_bytes());
  EXPECT_EQ(fourth->audit()->outside_cover_bytes, 0u);
  if (GetParam() != "file") {
    EXPECT_EQ(test::mappings_with("memfd:ds4."), 1u);
  }
}

TEST_P(WeightSpaceTest, TheLastClaimLeavesNothingMapped) {
  const std::size_t descriptors = test::open_descriptors();
  auto slice = load({0, 7, true});
  EXPECT_GT(test::mappings_with(GetParam() == "file" ? path_ : "memfd:ds4."), 0u);
  slice.reset();
  EXPECT_EQ(test::mappings_with(path_) + test::mappings_with("memfd:ds4."), 0u);
  EXPECT_EQ(test::open_descriptors(), descriptors);
}

TEST_P(WeightSpaceTest, CancelLeavesNothingBehind) {
  const auto serving = load({0, 1, false});
  const std::size_t descriptors = test::open_descriptors();
  const auto weights_mapped = [&] {  // a sanitizer's own mappings come and go
    return test::mappings_with(path_) + test::mappings_with("memfd:ds4.");
  };
  const std::size_t mappings = weights_mapped();
  const auto audit = serving->audit();
  std::atomic<bool> cancel = false;
  LoadOptions options;
  options.chunk_bytes = 64 << 10;
  options.cancel = &cancel;
  options.progress = [&](std::uint64_t done, std::uint64_t total) { cancel = done > total / 2; };
  const auto slice = ResidentSlice::load(space_, {0, 7, true}, options);
  ASSERT_FALSE(slice);
  EXPECT_EQ(slice.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(test::open_descriptors(), descriptors);
  EXPECT_EQ(weights_mapped(), mappings);
  EXPECT_EQ(total_bytes(space_->claimed()), serving->cover().cover_bytes());
  expect_intact(*serving);
  EXPECT_EQ(serving->audit()->mapped_bytes, audit->mapped_bytes);
  EXPECT_EQ(serving->audit()->outside_cover_bytes, 0u);
  if (GetParam() != "file") {
    EXPECT_THAT(keeper_.names(), ::testing::ElementsAre("L0", "L1"));
  }
}

TEST_P(WeightSpaceTest, AFileWrittenToSinceItWasOpenedIsRefused) {
  const UniqueFd fd(::open(path_.c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(::pwrite(fd.get(), "x", 1, static_cast<off_t>(model_->file_bytes() - 1)), 1);
  const timespec times[2] = {{1, 0}, {1, 0}};  // another time, however coarse the clock
  ASSERT_EQ(::futimens(fd.get(), times), 0);
  const auto slice = ResidentSlice::load(space_, {0, 1, false});
  ASSERT_FALSE(slice);
  EXPECT_EQ(slice.error().code, ErrorCode::kMismatch);
  EXPECT_THAT(slice.error().message, ::testing::HasSubstr("written to"));
}

}  // namespace
}  // namespace ds4
