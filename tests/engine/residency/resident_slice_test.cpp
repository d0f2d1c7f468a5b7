// Loading a slice: what is mapped, what is not, and what is left when it fails.
#include "engine/residency/resident_slice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "engine/gguf/model_file.h"
#include "engine/residency/residency_audit.h"
#include "engine/residency/span_map.h"
#include "tests/engine/gguf/temp_file.h"
#include "tests/engine/residency/synthetic_model.h"

namespace ds4 {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // mlock(2) is then a no-op that succeeds
#else
constexpr bool kSanitized = false;
#endif

class ResidentSliceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = dir_.write("model.gguf", test::synthetic_model(8, 40).build());
    auto model = ModelFile::open(path_);
    ASSERT_TRUE(model) << model.error().message;
    model_ = *model;
  }
  std::shared_ptr<ResidentSlice> load(const LayerRange& range, const LoadOptions& options = {}) {
    auto slice = ResidentSlice::load(model_, range, options);
    EXPECT_TRUE(slice) << slice.error().message;
    return slice ? *slice : nullptr;
  }
  /// True while any mapping of this process belongs to the model.
  bool model_is_mapped() const {
    std::ifstream maps("/proc/self/maps");
    std::stringstream text;
    text << maps.rdbuf();
    EXPECT_THAT(text.str(), HasSubstr("/"));
    return text.str().find(path_) != std::string::npos;
  }

  test::TempDir dir_;
  std::string path_;
  std::shared_ptr<const ModelFile> model_;
};

TEST_F(ResidentSliceTest, HandsOutTheBytesOfTheFile) {
  const auto slice = load({2, 3, false});
  ASSERT_NE(slice, nullptr);
  std::ifstream file(path_, std::ios::binary);
  for (const auto* name : {"blk.2.attn.weight", "blk.3.norm.weight"}) {
    const auto view = slice->tensor(name);
    ASSERT_TRUE(view) << view.error().message;
    EXPECT_EQ(view->info->name, name);
    ASSERT_EQ(view->bytes.size(), view->info->bytes);
    std::vector<char> expected(view->info->bytes);
    file.seekg(static_cast<std::streamoff>(view->info->offset));
    file.read(expected.data(), static_cast<std::streamsize>(expected.size()));
    ASSERT_TRUE(file);
    EXPECT_EQ(std::memcmp(expected.data(), view->bytes.data(), expected.size()), 0) << name;
    EXPECT_EQ(view->bytes.data(), slice->reservation() + view->info->offset);
  }
}

TEST_F(ResidentSliceTest, NamesTensorAndRangeWhenTheTensorIsForeign) {
  const auto slice = load({2, 3, false});
  ASSERT_NE(slice, nullptr);
  for (const auto* name : {"blk.1.ffn.weight", "output.weight", "token_embd.weight"}) {
    const auto view = slice->tensor(name);
    ASSERT_FALSE(view) << name;
    EXPECT_EQ(view.error().code, ErrorCode::kOutOfRange);
    EXPECT_THAT(view.error().message, AllOf(HasSubstr(name), HasSubstr("2:3")));
  }
}

TEST_F(ResidentSliceTest, NamesATensorThatTheFileLacks) {
  const auto view = load({0, 1, false})->tensor("blk.0.nonesuch");
  ASSERT_FALSE(view);
  EXPECT_EQ(view.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(view.error().message, HasSubstr("blk.0.nonesuch"));
}

TEST_F(ResidentSliceTest, HoldsItsCoverAndNothingElse) {
  for (const LayerRange range : {LayerRange{0, 1, false}, LayerRange{3, 5, false},
                                 LayerRange{5, 7, true}, LayerRange{0, 7, true}}) {
    const auto slice = load(range);
    ASSERT_NE(slice, nullptr);
    const auto audit = slice->audit();
    ASSERT_TRUE(audit) << audit.error().message;
    const std::uint64_t cover_bytes = slice->cover().cover_bytes();
    EXPECT_EQ(audit->mapped_bytes, cover_bytes) << range.to_string();
    EXPECT_EQ(audit->incore_bytes, cover_bytes) << range.to_string();
    EXPECT_EQ(audit->outside_cover_bytes, 0u) << range.to_string();
    // The model is far below the usual RLIMIT_MEMLOCK (8 MiB); someone may have lowered it.
    const bool locked = slice->note().empty() && !kSanitized;
    EXPECT_EQ(audit->locked_bytes, locked ? cover_bytes : 0) << range.to_string();
  }
}

TEST_F(ResidentSliceTest, TwoSlicesOfOneProcessAreAuditedApart) {
  const auto first = load({0, 3, false});
  const auto second = load({4, 7, true});
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->audit()->mapped_bytes, first->cover().cover_bytes());
  EXPECT_EQ(second->audit()->mapped_bytes, second->cover().cover_bytes());
  EXPECT_EQ(first->audit()->outside_cover_bytes, 0u);
}

TEST_F(ResidentSliceTest, RefusesLayersThatTheFileLacks) {
  const auto slice = ResidentSlice::load(model_, LayerRange{8, 9, false});
  ASSERT_FALSE(slice);
  EXPECT_EQ(slice.error().code, ErrorCode::kOutOfRange);
  EXPECT_THAT(slice.error().message, AllOf(HasSubstr("8:9"), HasSubstr(path_)));
}

TEST_F(ResidentSliceTest, RefusesAFileThatChangedSinceItWasOpened) {
  ASSERT_EQ(::truncate(path_.c_str(), static_cast<off_t>(model_->file_bytes() - 1)), 0);
  const auto slice = ResidentSlice::load(model_, LayerRange{0, 7, true});
  ASSERT_FALSE(slice);
  EXPECT_EQ(slice.error().code, ErrorCode::kMismatch);
  EXPECT_THAT(slice.error().message, HasSubstr(std::to_string(model_->file_bytes())));
  EXPECT_FALSE(model_is_mapped());
}

TEST_F(ResidentSliceTest, ReportsProgressUpToTheWholeCover) {
  std::vector<std::uint64_t> steps;
  std::uint64_t total = 0;
  LoadOptions options;
  options.chunk_bytes = 64 << 10;
  options.progress = [&](std::uint64_t done, std::uint64_t all) {
    steps.push_back(done);
    total = all;
  };
  const auto slice = load({1, 6, false}, options);
  ASSERT_NE(slice, nullptr);
  EXPECT_EQ(total, slice->cover().cover_bytes());
  ASSERT_FALSE(steps.empty());
  EXPECT_EQ(steps.back(), total);
  EXPECT_EQ(steps.front(), 64u << 10);
  EXPECT_GE(steps.size(), total / (64u << 10));
  EXPECT_TRUE(std::ranges::is_sorted(steps));
}

TEST_F(ResidentSliceTest, AcceptsAnyChunkSize) {
  for (const std::uint64_t chunk_bytes : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{5000},
                                          std::uint64_t{1} << 40, UINT64_MAX}) {
    LoadOptions options;
    options.chunk_bytes = chunk_bytes;
    const auto slice = load({2, 2, false}, options);
    ASSERT_NE(slice, nullptr);
    EXPECT_EQ(slice->audit()->incore_bytes, slice->cover().cover_bytes());
  }
}

TEST_F(ResidentSliceTest, CancelLeavesNoMappingBehind) {
  std::atomic<bool> cancel = false;
  bool mapped_while_loading = false;
  LoadOptions options;
  options.chunk_bytes = 16 << 10;
  options.cancel = &cancel;
  options.progress = [&](std::uint64_t, std::uint64_t) {
    mapped_while_loading = model_is_mapped();  // else the check below could not fail
    cancel = true;
  };
  const auto slice = ResidentSlice::load(model_, LayerRange{0, 7, true}, options);
  ASSERT_FALSE(slice);
  EXPECT_EQ(slice.error().code, ErrorCode::kCancelled);
  EXPECT_TRUE(mapped_while_loading);
  EXPECT_FALSE(model_is_mapped());
}

TEST_F(ResidentSliceTest, DestructionLeavesNoMappingBehind) {
  auto slice = load({0, 7, true});
  EXPECT_TRUE(model_is_mapped());
  slice.reset();
  EXPECT_FALSE(model_is_mapped());
}

TEST_F(ResidentSliceTest, ReportsAPeakThatIncludesTheCover) {
  const auto slice = load({0, 7, true});
  ASSERT_NE(slice, nullptr);
  EXPECT_GE(slice->figures().peak_rss_bytes, slice->cover().cover_bytes());
}

TEST_F(ResidentSliceTest, SaysSoWhenLockingWasNotAskedFor) {
  LoadOptions options;
  options.lock = false;
  const auto slice = load({1, 1, false}, options);
  ASSERT_NE(slice, nullptr);
  EXPECT_THAT(slice->note(), HasSubstr("not asked for"));
  EXPECT_EQ(slice->audit()->locked_bytes, 0u);
}

/// Runs `body` in a child without the privilege to lock memory or to own the model's file. 0 means
/// that body returned true.
template <typename Body>
int in_unprivileged_child(const Body& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit none = {0, 0};
    const bool dropped = ::setrlimit(RLIMIT_MEMLOCK, &none) == 0 &&
                         (::geteuid() != 0 || ::setresuid(65534, 65534, 65534) == 0);
    ::_exit(dropped ? (body() ? 0 : 1) : 2);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return status;
}

TEST_F(ResidentSliceTest, LoadsWithoutTheRightToLockAndSaysWhatToDo) {
  if (kSanitized) GTEST_SKIP() << "sanitizers replace mlock(2) by nothing";
  const int status = in_unprivileged_child([&] {
    const auto slice = ResidentSlice::load(model_, LayerRange{5, 7, true});
    if (!slice) return false;
    const std::string& note = (*slice)->note();
    const bool told = note.find("not locked") != std::string::npos &&
                      note.find("LimitMEMLOCK=") != std::string::npos &&
                      note.find("ulimit -l") != std::string::npos;
    std::fprintf(stderr, "%s\n", note.c_str());
    const auto audit = (*slice)->audit();
    return told && audit && audit->locked_bytes == 0 &&
           audit->incore_bytes == (*slice)->cover().cover_bytes();
  });
  EXPECT_EQ(status, 0);
}

TEST_F(ResidentSliceTest, BelievesMincoreOnlyWhereTheKernelIsHonest) {
  ASSERT_EQ(::chmod(path_.c_str(), 0444), 0);
  const auto mine = load({5, 7, true});
  ASSERT_NE(mine, nullptr);
  EXPECT_TRUE(mincore_is_honest(model_->fd()));
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become someone who does not own the file";
  EXPECT_EQ(in_unprivileged_child([&] { return !mincore_is_honest(model_->fd()); }), 0);
}

TEST_F(ResidentSliceTest, TouchingPagesPopulatesWhereTheKernelCannot) {
  const auto cover = SpanCover::of(model_->gguf(), LayerRange{4, 5, false}, system_page_bytes());
  ASSERT_TRUE(cover);
  auto map = SpanMap::reserve(model_->file_bytes());
  ASSERT_TRUE(map) << map.error().message;
  for (const Interval& interval : cover->intervals()) {
    ASSERT_TRUE(map->map(model_->fd(), interval));
  }
  const auto incore = [&] {  // by the page tables only
    return audit_mapping(map->base(), map->reserved_bytes(), *cover, cover->intervals(), false)
        .value()
        .incore_bytes;
  };
  EXPECT_EQ(incore(), 0u);
  for (const Interval& interval : cover->intervals()) {
    touch_pages(map->base() + interval.begin, interval.bytes());
  }
  EXPECT_EQ(incore(), cover->cover_bytes());
}

class SpanMapDeathTest : public ResidentSliceTest {};

TEST_F(SpanMapDeathTest, AnAddressOutsideTheCoverFaults) {
  const auto slice = load({3, 4, false});
  ASSERT_NE(slice, nullptr);
  const auto touch = [&](std::string_view name) {
    const std::byte* at = slice->reservation() + model_->gguf().find(name)->offset;
    touch_pages(at, 1);
  };
  touch("blk.3.attn.weight");  // its own: lives
  // A sanitizer reports the fault and exits before the signal kills.
  const auto faulted = [](int status) {
    return kSanitized ? status != 0 : ::testing::KilledBySignal(SIGSEGV)(status);
  };
  for (const auto* name :
       {"output.weight", "blk.0.ffn.weight", "blk.7.norm.weight", "token_embd.weight"}) {
    EXPECT_EXIT(touch(name), faulted, "") << name;
  }
}

}  // namespace
}  // namespace ds4
