// Copies that outlive their process, and copies that must not be taken for whole.
#include "engine/residency/memfd_store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>

#include "engine/gguf/model_file.h"
#include "engine/residency/resident_slice.h"
#include "tests/engine/gguf/temp_file.h"
#include "tests/engine/residency/keeper_fake.h"
#include "tests/engine/residency/memory_facts.h"
#include "tests/engine/residency/synthetic_model.h"

namespace ds4 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class MemfdStoreTest : public ::testing::Test {
 protected:
  MemfdStoreTest()
      : path_(dir_.write("model.gguf", test::synthetic_model(8, 40).build())),
        model_(ModelFile::open(path_).value()) {}

  /// A process's life begins: a new space over the same keeper.
  std::shared_ptr<WeightSpace> begin() {
    auto source = std::make_unique<test::FaultySource>(*model_);
    source_ = source.get();
    MemfdOptions options;
    options.keeper = &keeper_;
    return WeightSpace::open(model_, make_memfd_store(model_, std::move(source), options)).value();
  }
  Result<std::shared_ptr<ResidentSlice>> load(const std::shared_ptr<WeightSpace>& space,
                                              const LayerRange& range) {
    LoadOptions options;
    options.chunk_bytes = 64 << 10;
    return ResidentSlice::load(space, range, options);
  }
  /// Another file at the model's path, with the bytes that `change` makes of it.
  void replace_model(const std::function<void(std::vector<std::byte>&)>& change) {
    std::vector<std::byte> bytes = test::synthetic_model(8, 40).build();
    change(bytes);
    std::filesystem::rename(dir_.write("next.gguf", bytes), path_);
    model_ = ModelFile::open(path_).value();
  }
  /// One life, ended as `leave` ends it.
  void live(const LayerRange& range) {
    const auto space = begin();
    const auto slice = load(space, range);
    ASSERT_TRUE(slice) << slice.error().message;
    space->leave();
  }

  test::TempDir dir_;
  std::string path_;
  std::shared_ptr<const ModelFile> model_;
  test::FakeKeeper keeper_;
  test::FaultySource* source_ = nullptr;
};

TEST_F(MemfdStoreTest, TheNextProcessTakesBackWhatIsThere) {
  live({3, 7, true});
  EXPECT_THAT(keeper_.names(), ElementsAre("L3", "L4", "L5", "L6", "L7", "output"));
  const auto space = begin();
  const auto slice = load(space, {3, 7, true});
  ASSERT_TRUE(slice) << slice.error().message;
  EXPECT_EQ(source_->reads, 0u);
  EXPECT_EQ((*slice)->figures().read_bytes, 0u);
  EXPECT_EQ((*slice)->figures().adopted_bytes, (*slice)->cover().cover_bytes());
  EXPECT_EQ((*slice)->audit()->incore_bytes, (*slice)->cover().cover_bytes());
  const auto view = (*slice)->tensor("blk.6.ffn.weight");
  const auto fresh = ResidentSlice::load(model_, {6, 6, false}).value();
  EXPECT_TRUE(std::ranges::equal(view->bytes, fresh->tensor("blk.6.ffn.weight")->bytes));
}

TEST_F(MemfdStoreTest, TakesWhatFitsAndReadsTheRest) {
  live({3, 5, false});
  const auto space = begin();
  const auto slice = load(space, {4, 6, false});
  ASSERT_TRUE(slice) << slice.error().message;
  EXPECT_GT((*slice)->figures().adopted_bytes, 0u);
  EXPECT_GT((*slice)->figures().read_bytes, 0u);
  EXPECT_EQ((*slice)->figures().adopted_bytes + (*slice)->figures().read_bytes,
            (*slice)->cover().cover_bytes());
}

TEST_F(MemfdStoreTest, AnEqualFileInItsPlaceIsNotReadAgain) {
  live({3, 7, true});
  replace_model([](std::vector<std::byte>&) {});
  const auto space = begin();
  const auto slice = load(space, {3, 7, true});
  ASSERT_TRUE(slice) << slice.error().message;
  EXPECT_EQ(source_->reads, 0u);
  EXPECT_EQ((*slice)->figures().adopted_bytes, (*slice)->cover().cover_bytes());
  EXPECT_EQ((*slice)->note(), "");
}

TEST_F(MemfdStoreTest, AFileInItsPlaceWithOneOtherTensorHasThatLayerReadAgain) {
  live({3, 7, false});
  const TensorInfo changed = *model_->gguf().find("blk.4.ffn.weight");
  const std::string before = model_->fingerprint();
  replace_model([&](std::vector<std::byte>& bytes) {
    bytes[changed.offset + changed.bytes - 1] ^= std::byte{1};
  });
  ASSERT_EQ(model_->fingerprint(), before);  // it does not see the ends of tensors
  const auto space = begin();
  const auto slice = load(space, {3, 7, false});
  ASSERT_TRUE(slice) << slice.error().message;
  EXPECT_THAT((*slice)->note(), HasSubstr("L4 was left in memory but is not taken"));
  EXPECT_THAT((*slice)->note(), HasSubstr("other weights"));
  EXPECT_GT((*slice)->figures().read_bytes, 0u);
  EXPECT_GT((*slice)->figures().adopted_bytes, (*slice)->figures().read_bytes);
  const auto fresh = ResidentSlice::load(model_, {4, 4, false}).value();
  EXPECT_TRUE(std::ranges::equal((*slice)->tensor("blk.4.ffn.weight")->bytes,
                                 fresh->tensor("blk.4.ffn.weight")->bytes));
}

TEST_F(MemfdStoreTest, WhatIsReleasedIsForgotten) {
  const auto space = begin();
  auto slice = load(space, {3, 4, false}).value();
  slice.reset();
  EXPECT_THAT(keeper_.names(), IsEmpty());
  EXPECT_EQ(keeper_.forgotten.size(), 2u);
  EXPECT_EQ(test::descriptors_of("memfd:ds4."), 0u);
}

TEST_F(MemfdStoreTest, AReadErrorKeepsNothingAndTheNextLoadIsWhole) {
  const auto space = begin();
  source_->bytes_until_error = 500 << 10;  // in the middle of the second layer
  const std::size_t descriptors = test::open_descriptors();
  const auto slice = load(space, {0, 7, true});
  ASSERT_FALSE(slice);
  EXPECT_EQ(slice.error().code, ErrorCode::kIo);
  EXPECT_THAT(slice.error().message, HasSubstr("Input/output error"));
  EXPECT_THAT(slice.error().message, HasSubstr("copy part L"));
  EXPECT_THAT(keeper_.names(), IsEmpty());
  EXPECT_EQ(test::open_descriptors(), descriptors);
  EXPECT_EQ(test::mappings_with("memfd:ds4."), 0u);
  source_->bytes_until_error = UINT64_MAX;
  const auto again = load(space, {0, 7, true});
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ((*again)->audit()->incore_bytes, (*again)->cover().cover_bytes());
}

/// Whatever was left that is not a whole, sealed copy of this part of this model is read again.
class MemfdImpostor : public MemfdStoreTest {
 protected:
  std::string name() const { return memfd_part_name(model_->fingerprint(), "L3"); }
  std::uint64_t image_bytes() const {
    struct stat info = {};
    ::fstat(keeper_.kept.at(name()).get(), &info);
    return static_cast<std::uint64_t>(info.st_size);
  }
  /// The kept image's bytes in a memfd of the test's own, unsealed.
  UniqueFd copy_of_kept() const {
    UniqueFd copy(::memfd_create("copy", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    std::vector<char> bytes(image_bytes());
    EXPECT_EQ(::pread(keeper_.kept.at(name()).get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
    EXPECT_EQ(::pwrite(copy.get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
    return copy;
  }
  static void seal(int fd) {
    ASSERT_EQ(::fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE),
              0);
  }
  void expect_read_again(UniqueFd impostor, const std::string& why) {
    keeper_.kept[name()] = std::move(impostor);
    const auto space = begin();
    const auto slice = load(space, {3, 3, false});
    ASSERT_TRUE(slice) << slice.error().message;
    EXPECT_EQ((*slice)->figures().adopted_bytes, 0u);
    EXPECT_GT(source_->reads, 0u);
    EXPECT_THAT((*slice)->note(), HasSubstr(why));
    const auto view = (*slice)->tensor("blk.3.attn.weight");
    const auto fresh = ResidentSlice::load(model_, {3, 3, false}).value();
    EXPECT_TRUE(std::ranges::equal(view->bytes, fresh->tensor("blk.3.attn.weight")->bytes));
  }
};

TEST_F(MemfdImpostor, ACopyThatWasNotSealed) {
  live({3, 3, false});
  expect_read_again(copy_of_kept(), "not sealed");
}

TEST_F(MemfdImpostor, ASealedCopyIsTakenSoThatTheOthersCouldFail) {
  live({3, 3, false});
  UniqueFd copy = copy_of_kept();
  seal(copy.get());
  keeper_.kept[name()] = std::move(copy);
  const auto space = begin();
  EXPECT_GT(load(space, {3, 3, false}).value()->figures().adopted_bytes, 0u);
}

TEST_F(MemfdImpostor, ACopyWithoutItsMark) {
  live({3, 3, false});
  UniqueFd copy = copy_of_kept();
  const std::uint64_t page = system_page_bytes();
  const std::vector<char> zeros(page);
  ASSERT_EQ(::pwrite(copy.get(), zeros.data(), page, static_cast<off_t>(image_bytes() - page)),
            static_cast<ssize_t>(page));
  seal(copy.get());
  expect_read_again(std::move(copy), "mark");
}

TEST_F(MemfdImpostor, ACopyWhoseTensorsAreOthers) {
  live({3, 3, false});
  UniqueFd copy = copy_of_kept();
  const auto offset = static_cast<off_t>(model_->gguf().find("blk.3.norm.weight")->offset);
  ASSERT_EQ(::pwrite(copy.get(), "!", 1, offset + 5), 1);
  seal(copy.get());
  expect_read_again(std::move(copy), "mark");
}

TEST_F(MemfdImpostor, ACopyOfAnotherSize) {
  live({3, 3, false});
  UniqueFd copy = copy_of_kept();
  ASSERT_EQ(::ftruncate(copy.get(), static_cast<off_t>(image_bytes() - 1)), 0);
  seal(copy.get());
  expect_read_again(std::move(copy), "size");
}

TEST_F(MemfdImpostor, AnotherPartUnderItsName) {
  live({3, 4, false});
  UniqueFd other = std::move(keeper_.kept.at(memfd_part_name(model_->fingerprint(), "L4")));
  expect_read_again(std::move(other), "mark");
}

TEST_F(MemfdImpostor, SomethingThatIsNoMemfd) {
  live({3, 3, false});
  expect_read_again(UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)), "not sealed");
}

TEST_F(MemfdStoreTest, LargePagesAreUsedWhereTheyFitOrTheNoteSaysWhyNot) {
  const std::string path = dir_.write("large.gguf", test::synthetic_model(2, 3000).build());
  const auto model = ModelFile::open(path).value();
  MemfdOptions options;
  options.huge_pages = true;
  const auto space =
      WeightSpace::open(model, make_memfd_store(model, make_file_source(*model).value(), options))
          .value();
  const auto slice = ResidentSlice::load(space, {1, 1, false}).value();
  EXPECT_EQ(slice->audit()->mapped_bytes, slice->cover().cover_bytes());
  EXPECT_EQ(slice->audit()->incore_bytes, slice->cover().cover_bytes());
  std::uint64_t huge_kib = 0;
  std::ifstream smaps("/proc/self/smaps");
  for (std::string line; std::getline(smaps, line);) {
    if (line.starts_with("ShmemPmdMapped:")) huge_kib += std::stoul(line.substr(15));
  }
  if (slice->note().find("no large pages") != std::string::npos) {
    EXPECT_EQ(huge_kib, 0u);
    GTEST_SKIP() << slice->note();
  }
  EXPECT_GE(huge_kib, 2u * 2048u);
  const auto fresh = ResidentSlice::load(model, {1, 1, false}).value();
  EXPECT_TRUE(std::ranges::equal(slice->tensor("blk.1.ffn.weight")->bytes,
                                 fresh->tensor("blk.1.ffn.weight")->bytes));
}

TEST_F(MemfdStoreTest, NobodyCanWriteToAKeptCopy) {
  live({3, 3, false});
  const int fd = keeper_.kept.begin()->second.get();
  EXPECT_EQ(::pwrite(fd, "x", 1, 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(fd, 0), -1);
}

}  // namespace
}  // namespace ds4
